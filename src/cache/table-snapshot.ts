import type { CacheGroup } from "./layout.js";
import type { KvPool } from "./pool.js";
import { badSnapshot, type SnapshotSource, type TableState } from "./snapshot.js";
import { LaneTable } from "./table.js";

/** What is saved of a table beside its pages, in this order. */
const ARRAYS = [
  "positions",
  "mass",
  "counts",
  "moved",
  "elements",
  "queries",
  "chosen",
  "chosenAt",
  "chooser",
] as const;

/** Bytes that `savedParts` gives. */
export function savedBytes(table: LaneTable, pool: KvPool): number {
  const parts = table.parts();
  const bytes = ARRAYS.reduce((sum, kind) => sum + (parts[kind]?.byteLength ?? 0), 0);
  return bytes + parts.pages.length * pool.pageBytes;
}

/**
 * The table and its pages as bytes (see snapshot.ts), one part after another, each valid until the next is asked for. The
 * table must not change in the meantime; memory may move.
 */
export function* savedParts(table: LaneTable, { arena, pageBytes }: KvPool): Generator<Uint8Array> {
  for (const kind of ARRAYS) {
    const values = table.parts()[kind];
    if (values) yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  }
  for (const page of table.parts().pages.slice()) yield arena.bytes(page * pageBytes, pageBytes);
}

/**
 * Reads what `savedParts` gave. Everything but the contents of pages is checked: BAD_FORMAT for what cannot be,
 * OUT_OF_BUDGET where the pool has too few pages. `last` is the greatest position that a token may have.
 */
export function restoreTable(
  pool: KvPool,
  group: CacheGroup,
  state: TableState,
  reader: SnapshotSource,
  last: number,
): LaneTable {
  const { rows } = state;
  const rowSlots = group.thin?.pageTokens ?? group.pageTokens;
  const slots = rows * rowSlots;
  const pages = rows * group.lanes.length;
  if (state.segments.length !== rows || pages * pool.pageBytes > reader.left) {
    throw badSnapshot(`it claims ${rows} rows and has less`);
  }
  pool.require(pages);
  const positions = new Int32Array(slots);
  reader.read(positions);
  checkTokens(state, group, usedByRow(positions, rowSlots, last), last);
  const mass = group.policy.mass ? new Float32Array(group.lanes.length * slots) : null;
  if (mass) {
    reader.read(mass);
    if (mass.some((value) => !(value >= 0 && value < Number.POSITIVE_INFINITY))) {
      throw badSnapshot("its attention mass is not a number");
    }
  }
  const { merges, chooses } = group.policy;
  const counts = merges ? new Int32Array(slots) : null;
  if (counts) {
    reader.read(counts);
    checkCounts(counts, positions, state);
  }
  const moved = group.policy.settles === undefined ? null : new Int32Array(slots);
  if (moved) {
    reader.read(moved);
    checkMoved(moved, positions, rowSlots, state, last);
  }
  const { thin, headWidth, lanes } = group;
  const elements = thin ? new Int32Array(lanes.length * thin.keyWidth) : null;
  const queries = thin ? new Float32Array(lanes.length * headWidth) : null;
  if (thin && elements && queries) {
    reader.read(elements);
    reader.read(queries);
    checkElements(elements, thin.keyWidth, headWidth, state);
    if (queries.some((sum) => !(sum >= 0 && sum < Number.POSITIVE_INFINITY)))
      throw badSnapshot("its sums of queries are not numbers");
  }
  const chosen = chooses ? new Int32Array(slots) : null;
  const chosenAt = chooses ? new Int32Array(1) : null;
  const chooser = chooses ? new Float32Array(lanes.length * headWidth) : null;
  if (chosen && chosenAt && chooser) {
    reader.read(chosen);
    reader.read(chosenAt);
    reader.read(chooser);
    if (!(chosenAt[0]! >= -1 && chosenAt[0]! <= last) || !chooser.every(Number.isFinite))
      throw badSnapshot("its last choice is of no query it saw");
  }
  const table = LaneTable.from(pool, group, {
    state,
    positions,
    mass,
    counts,
    moved,
    elements,
    queries,
    chosen,
    chosenAt,
    chooser,
  });
  try {
    const { arena, pageBytes } = pool;
    for (const page of table.parts().pages) reader.read(arena.bytes(page * pageBytes, pageBytes));
  } catch (error) {
    table.dispose();
    throw error;
  }
  return table;
}

/** Tokens of each row. Throws where they are not at distinct positions up to `last`, or a row has none. */
function usedByRow(positions: Int32Array, pageTokens: number, last: number): Int32Array {
  const used = new Int32Array(positions.length / pageTokens);
  for (const [slot, position] of positions.entries()) {
    if (position < -1 || position > last) throw badSnapshot(`it has a token at position ${position}`);
    if (position >= 0) used[Math.floor(slot / pageTokens)]!++;
  }
  const empty = used.indexOf(0);
  if (empty >= 0) throw badSnapshot(`its row ${empty} holds nothing`);
  const sorted = positions.slice().sort();
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i]! >= 0 && sorted[i] === sorted[i - 1])
      throw badSnapshot(`it has two tokens at position ${sorted[i]}`);
  }
  return used;
}

function checkTokens(state: TableState, group: CacheGroup, used: Int32Array, last: number): void {
  const sizes = [group.pageTokens, group.pageTokens, ...(group.thin ? [group.thin.pageTokens] : [])];
  if (state.open.length !== sizes.length) throw badSnapshot(`it has ${state.open.length} segments`);
  const held = sizes.map(() => 0);
  const withRoom = sizes.map((): number[] => []);
  for (const [row, count] of used.entries()) {
    const segment = state.segments[row]!;
    const size = sizes[segment];
    if (size === undefined || count > size) throw badSnapshot(`its row ${row} is of no segment it has`);
    held[segment]! += count;
    if (count < size) withRoom[segment]!.push(row);
  }
  for (const [segment, open] of state.open.entries()) {
    const claimed = [...open].sort((a, b) => a - b);
    if (claimed.join() !== withRoom[segment]!.join())
      throw badSnapshot("its rows with free slots are not those it lists");
  }
  const kept = held.reduce((sum, count) => sum + count, 0);
  if (kept + state.merged + state.demoted + state.dropped + state.expired !== state.seen)
    throw badSnapshot("its tokens do not add up");
  if (held[0]! > (group.policy.sinks ?? 0)) throw badSnapshot("it has too many sinks");
  if (Math.max(state.newestLost, state.exactFrom - 1) > last)
    throw badSnapshot("it dropped tokens yet to come");
}

/** Throws where thin rows would not have elements of the key, each once. */
function checkElements(elements: Int32Array, keyWidth: number, headWidth: number, state: TableState): void {
  if (!state.segments.includes(2)) return;
  for (const [i, element] of elements.entries()) {
    const least = i % keyWidth === 0 ? 0 : elements[i - 1]! + 1;
    if (element < least || element >= headWidth) throw badSnapshot(`it has keys of an element ${element}`);
  }
}

/** Throws where the tokens would not stand in the order of their positions, or after the last of these. */
function checkMoved(
  moved: Int32Array,
  positions: Int32Array,
  pageTokens: number,
  { segments, offsets }: TableState,
  last: number,
): void {
  const slots = [...positions.keys()].filter((slot) => positions[slot]! >= 0);
  slots.sort((a, b) => positions[a]! - positions[b]!);
  let before = Number.NEGATIVE_INFINITY;
  for (const slot of slots) {
    const offset = offsets[segments[Math.floor(slot / pageTokens)] === 0 ? 0 : 1];
    const at = positions[slot]! + moved[slot]! + offset;
    if (at <= before || at > last) throw badSnapshot(`it has a token that stands at ${at}`);
    before = at;
  }
}

function checkCounts(counts: Int32Array, positions: Int32Array, { merged, demoted }: TableState): void {
  let more = 0;
  for (const [slot, count] of counts.entries()) {
    if (positions[slot]! < 0) continue;
    if (count < 1) throw badSnapshot(`slot ${slot} stands for no token`);
    more += count - 1;
  }
  // What was merged into tokens that are demoted now is counted nowhere else.
  if (more > merged || (more < merged && demoted === 0)) throw badSnapshot("its merged tokens do not add up");
}
