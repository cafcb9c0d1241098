import { MillraceError } from "../errors.js";
import type { LaneView, Plan, PlanStep, Segment } from "./contract.js";
import type { CacheGroup } from "./layout.js";
import { keysAt, mergeInto, type Place } from "./merge.js";
import type { KvPool } from "./pool.js";
import type { Rotations } from "./rotations.js";
import { SlotCopier, thickened } from "./slots.js";
import type { TableState } from "./snapshot.js";
import { KeyTurner } from "./turn.js";
import { NEVER, TableView } from "./view.js";

/** Tokens of one table; kept + merged + demoted + dropped + expired = seen. */
export interface LaneCounts {
  readonly seen: number;
  readonly kept: number;
  /** Of those kept: tokens whose keys are stored without some of their elements. */
  readonly thinned: number;
  /** Part of tokens that are kept, or went down to the tier below. */
  readonly merged: number;
  /** In the tier below. */
  readonly demoted: number;
  readonly dropped: number;
  readonly expired: number;
}

/** Pages that what is staged will take from the pool and give back to it. */
export interface PageNeed {
  readonly taken: number;
  readonly returned: number;
}

/** A token that a plan takes out. */
export interface Removal {
  readonly kind: "drop" | "expire" | "merge";
  readonly slot: number;
  readonly position: number;
  /** Tokens that it stands for. */
  readonly count: number;
  /** How much further on its key counts as stored than its position. */
  readonly moved: number;
}

/** All that a table is. */
export interface TableParts {
  readonly state: TableState;
  /** By slot, -1 for none. */
  readonly positions: Int32Array;
  /** By lane and slot; null where the policy asks for none. */
  readonly mass: Float32Array | null;
  /** By slot: tokens that it stands for; null where the policy never merges. */
  readonly counts: Int32Array | null;
  /** By slot: how much further on its key is stored than its position; null where plans do not settle. */
  readonly moved: Int32Array | null;
  /** Elements of thin keys [lanes, keyWidth], and sums of squares of queries [lanes, D]; null where the policy never thins. */
  readonly elements: Int32Array | null;
  readonly queries: Float32Array | null;
  /** What queries chose last, see KvChoice: by slot, where the one stands that chose, and that query; null where none choose. */
  readonly chosen: Int32Array | null;
  readonly chosenAt: Int32Array | null;
  readonly chooser: Float32Array | null;
  /** [rows, lanes] */
  readonly pages: Int32Array;
}

interface SegmentState {
  readonly name: Segment;
  /** Tokens that a row takes: all its slots, fewer where others are thin. */
  readonly pageTokens: number;
  /** Rows with a free slot; the one to be filled next stands last. */
  readonly open: number[];
  held: number;
  /** Free slots of the segment's rows. */
  room: number;
  /** Positions by which the segment was moved. */
  offset: number;
  /** Row of the step's rotations, or NONE. */
  rotation: number;
}

type MergeStep = Extract<PlanStep, { kind: "merge" }>;

const NONE = -1;
const SEGMENTS: readonly Segment[] = ["sinks", "stream"];
/** The part of the stream whose keys are stored in part: rows of their own, for tables whose policy thins. */
const THIN = 2;
const FIRST_ROWS = 4;

/**
 * The page table of one sequence and one lane group, and the only place where tokens enter and leave it. A row is
 * one page per lane, all holding the same tokens; a slot is a token's place among the rows. A segment's rows hold no
 * other segment's tokens.
 *
 * A step is `stage` (takes the plan's tokens out, undone by `rollback`), `reserve`, `evict`, `append`. Each takes time by the
 * tokens it touches, amortised, not by the tokens held. Slots stay what they are until the next `evict`, `rewind`.
 */
export class LaneTable {
  readonly group: CacheGroup;
  readonly view: TableView;
  readonly #pool: KvPool;
  /** By whether a token is thin: before, and after. */
  readonly #copiers: { readonly whole: SlotCopier; readonly thinning: SlotCopier; readonly thin: SlotCopier };
  readonly #lanes: number;
  readonly #pageTokens: number;

  #numRows = 0;
  /** Host views of the table; taken anew at every entry, since backend memory may move. */
  #pageIds: Int32Array = new Int32Array();
  #positions: Int32Array = new Int32Array();
  #rotations: Int32Array = new Int32Array();
  /** By row: tokens held; index of the segment; a slot of the row below which it is full. */
  #used: Int32Array;
  #segmentOf: Uint8Array;
  #cursor: Int32Array;
  /** By slot: neighbours in order of position. */
  #older: Int32Array;
  #newer: Int32Array;
  /** By slot: tokens that it stands for; null where the policy merges none. */
  #counts: Int32Array | null = null;
  /** By slot: how much further on its key is stored than its position; null where plans do not settle. */
  #moved: Int32Array | null = null;
  #oldest = NONE;
  #newest = NONE;

  readonly #segments: readonly SegmentState[];

  #seen = 0;
  #merged = 0;
  #demoted = 0;
  #dropped = 0;
  #expired = 0;
  /** Position of the newest token that a plan ever took out. */
  #newestLost = NONE;
  /** Least position to which a rewind is exact: where the step began that last took something out. */
  #exactFrom = 0;

  #removals: Removal[] = [];
  /** Slots that the staged plan merges others into. */
  #merges: MergeStep[] = [];
  /** Whether the staged plan settles what stays. */
  #settles = false;
  /** Slots whose keys the staged plan thins, oldest first, and which elements stay; null: as before. */
  #thinning: number[] = [];
  #elements: Int32Array | null = null;
  /** Rows that the staged step adds. */
  #freshRows = 0;
  /** Rows that the staged removals leave empty. */
  #emptied: number[] = [];

  /** Throws OUT_OF_BUDGET where the backend has no memory for the table. */
  constructor(pool: KvPool, group: CacheGroup, maxRows = FIRST_ROWS) {
    this.group = group;
    this.#pool = pool;
    this.#lanes = group.lanes.length;
    this.view = new TableView(pool.backend, group, maxRows);
    this.#pageTokens = this.view.pageTokens;
    const { codec, headWidth, thin } = group;
    const copier = (from: number, to: number) => new SlotCopier(codec, headWidth, { from, to });
    const width = thin?.keyWidth ?? headWidth;
    this.#copiers = {
      whole: copier(headWidth, headWidth),
      thinning: copier(headWidth, width),
      thin: copier(width, width),
    };
    const fresh = { held: 0, room: 0, offset: 0, rotation: NONE };
    this.#segments = [
      ...SEGMENTS.map((name) => ({ name, pageTokens: group.pageTokens, open: [], ...fresh })),
      ...(thin ? [{ name: "stream" as const, pageTokens: thin.pageTokens, open: [], ...fresh }] : []),
    ];
    this.#used = new Int32Array(maxRows);
    this.#segmentOf = new Uint8Array(maxRows);
    this.#cursor = new Int32Array(maxRows);
    this.#older = new Int32Array(maxRows * this.#pageTokens);
    this.#newer = new Int32Array(maxRows * this.#pageTokens);
    if (this.view.counted) this.#counts = new Int32Array(maxRows * this.#pageTokens).fill(1);
    if (group.policy.settles !== undefined) this.#moved = new Int32Array(maxRows * this.#pageTokens);
  }

  /** Tokens held. */
  get length(): number {
    return this.#segments.reduce((sum, { held }) => sum + held, 0);
  }

  get numPages(): number {
    return this.#numRows * this.#lanes;
  }

  /** Bytes of the table itself, pages not counted. */
  get tableBytes(): number {
    return this.view.byteLength;
  }

  /** Position of the newest token held, -1 for none. */
  get lastPosition(): number {
    this.#map();
    return this.#newest === NONE ? NONE : this.#positions[this.#newest]!;
  }

  counts(): LaneCounts {
    return {
      seen: this.#seen,
      kept: this.length,
      thinned: this.#segments[THIN]?.held ?? 0,
      merged: this.#merged,
      demoted: this.#demoted,
      dropped: this.#dropped,
      expired: this.#expired,
    };
  }

  /** What the policy sees before `incoming` tokens are stored. Valid until the table changes. */
  look(incoming: number, nextPosition: number, budget: number): LaneView {
    this.#map();
    const segment = (name: Segment) => this.#segments[SEGMENTS.indexOf(name)]!;
    return {
      lanes: this.group.lanes,
      seen: this.#seen,
      length: this.length,
      incoming,
      nextPosition,
      budget,
      positions: this.#positions.subarray(0, this.#numRows * this.#pageTokens),
      lengthOf: (name) => this.#segments.reduce((sum, each) => sum + (each.name === name ? each.held : 0), 0),
      segmentOf: (slot) => this.#segments[this.#segmentOf[this.#rowOf(slot)]!]!.name,
      offsetOf: (name) => segment(name).offset,
      oldest: () => walk(this.#oldest, this.#newer),
      newest: () => walk(this.#newest, this.#older),
      mass: () => {
        if (this.view.received) return this.view.received.total();
        const message = `Policy ${this.group.policy.id} reads attention mass but does not declare "mass".`;
        throw new MillraceError("INTERNAL", message);
      },
      countOf: (slot) => this.#counts?.[slot] ?? 1,
      keys: (slots) => this.#keys(slots),
      isThin: (slot) => this.#segmentOf[this.#rowOf(slot)] === THIN,
      queries: () => (this.#hasThin ? null : (this.view.measured?.values().slice() ?? null)),
    };
  }

  /**
   * Takes the plan's tokens out but keeps their bytes, so that `rollback` can put them back, and says which pages
   * storing `incoming` tokens will take. Throws INTERNAL, with nothing changed, for a plan that names a slot twice or
   * one that holds no token.
   */
  stage(plan: Plan, incoming: number): PageNeed {
    this.#map();
    const chosen = this.#hasThin;
    try {
      for (const step of plan) {
        if (step.kind === "move") continue;
        if (step.kind === "thin") {
          this.#stageThin(step, chosen);
          continue;
        }
        if (step.kind === "settle") {
          this.#checkSettle();
          this.#settles = true;
          continue;
        }
        for (let i = 0; i < step.slots.length; i++) this.#stageRemoval(step.kind, step.slots[i]!);
        if (step.kind !== "merge") continue;
        this.#checkMerge(step);
        this.#merges.push(step);
      }
      return this.#need(incoming);
    } catch (error) {
      this.rollback();
      throw error;
    }
  }

  /** Grows the table for the staged step. Throws OUT_OF_BUDGET where the backend refuses; `rollback` still works. */
  reserve(): void {
    this.#reserve(this.#numRows + this.#freshRows);
  }

  /** Position of the token in a slot, -1 for none. */
  positionOf(slot: number): number {
    this.#map();
    return this.#positions[slot] ?? NONE;
  }

  /** Tokens that the staged plan takes out. */
  get removals(): readonly Removal[] {
    return this.#removals;
  }

  /** Puts back what `stage` took out. */
  rollback(): void {
    this.#map();
    this.#merges.length = 0;
    this.#settles = false;
    this.#thinning.length = 0;
    for (let removal = this.#removals.pop(); removal; removal = this.#removals.pop()) {
      const { slot, position } = removal;
      const row = this.#rowOf(slot);
      const segment = this.#segments[this.#segmentOf[row]!]!;
      if (this.#used[row] === 0) this.#emptied.pop();
      this.#used[row]!++;
      if (this.#used[row] === segment.pageTokens) segment.open.pop();
      segment.held++;
      segment.room--;
      this.#positions[slot] = position;
      this.#link(slot);
    }
  }

  /**
   * Carries the staged plan out for good: counts, moves segments, gives back pages that became empty. With `demotes` a
   * tier below has taken what the plan drops.
   */
  evict(plan: Plan, incoming: number, nextPosition: number, demotes = false): void {
    this.#map();
    for (const merge of this.#merges) this.#merge(merge);
    this.#merges.length = 0;
    for (const { kind, position, count } of this.#removals) {
      if (kind === "merge") this.#merged++;
      else if (kind === "drop" && demotes) this.#demoted++;
      else {
        // Those that were merged into it go with it.
        this.#merged -= count - 1;
        if (kind === "expire") this.#expired += count;
        else this.#dropped += count;
      }
      this.#newestLost = Math.max(this.#newestLost, position);
      this.#exactFrom = nextPosition;
    }
    this.#removals.length = 0;
    for (const step of plan) {
      if (step.kind === "move") this.#segments[SEGMENTS.indexOf(step.segment)]!.offset = step.offset;
    }
    const thinning = new Set(this.#thinning.map((slot) => this.#positions[slot]!));
    this.#removeEmptied();
    if (this.#settles) this.#settleAll(nextPosition);
    this.#settles = false;
    if (thinning.size > 0) {
      this.#thin(thinning);
      this.#exactFrom = nextPosition;
    }
    const [toSinks, toStream] = this.#split(incoming);
    for (const [i, segment] of this.#segments.entries()) this.#compact(segment, [toSinks, toStream][i] ?? 0);
  }

  /**
   * Stores tokens at ascending positions and writes their slots to `slots`. Rows that other sequences share are
   * copied before they are written. To be called after `stage`, `reserve` and `evict`, with as many tokens.
   */
  append(positions: Int32Array, slots: Int32Array): void {
    this.#map();
    this.#aimMass(positions);
    this.#aimQueries(positions);
    for (let i = 0; i < positions.length; i++) {
      const index = this.#split(1)[0] > 0 ? 0 : 1;
      const segment = this.#segments[index]!;
      const row = segment.open.at(-1) ?? this.#addRow(index);
      this.#unshare(row);
      const slot = this.#freeSlot(row);
      this.#positions[slot] = positions[i]!;
      this.#fill(row, slot);
      this.#older[slot] = this.#newest;
      this.#newer[slot] = NONE;
      this.#link(slot);
      if (this.#used[row] === segment.pageTokens) segment.open.pop();
      this.#seen++;
      slots[i] = slot;
    }
    this.#settle();
    for (const values of this.view.values) for (const slot of slots) values.clear(slot);
    if (this.#counts) for (const slot of slots) this.#counts[slot] = 1;
    if (this.#moved) for (const slot of slots) this.#moved[slot] = 0;
  }

  /** Says which of the step's queries give mass, and forgets what others gave where these are the first to count. */
  #aimMass(positions: Int32Array): void {
    const { mass, maxIncoming } = this.group.policy;
    const { received } = this.view;
    if (!mass || !received) return;
    received.tempered = mass.tempered?.(this.#seen) ?? null;
    if (mass.queries === undefined) return;
    const left = mass.left?.(this.#seen) ?? maxIncoming?.(this.#seen) ?? Number.POSITIVE_INFINITY;
    const first = left - mass.queries;
    received.from = first < 0 ? 0 : (positions[first] ?? NEVER);
    if (first >= 0 && first < positions.length) received.values().fill(0);
  }

  /** Has queries measured for a choice of elements, those that count for the next one; none once it is made. */
  #aimQueries(positions: Int32Array): void {
    const { thins } = this.group.policy;
    const { measured } = this.view;
    if (!thins || !measured) return;
    measured.from = NEVER;
    if (this.#hasThin) return;
    const first = thins.block - (this.#seen % thins.block) - thins.queries;
    measured.from = first < 0 ? 0 : (positions[first] ?? NEVER);
    if (first >= 0 && first < positions.length) measured.values().fill(0);
  }

  get #hasThin(): boolean {
    return (this.#segments[THIN]?.held ?? 0) > 0;
  }

  /** Says that the tier below has lost so many tokens, and others that were merged into these. */
  lose(count: number, merged: number): void {
    this.#demoted -= count;
    this.#merged -= merged;
    this.#dropped += count + merged;
  }

  /** Where the stream's first token would stand were there no holes between it and the newest. */
  get streamStart(): number {
    return this.lastPosition + 1 - this.#segments[1]!.held - (this.#segments[THIN]?.held ?? 0);
  }

  /**
   * Writes the segments' offsets into the table as rows of this step's rotations. Sinks that were moved next to the
   * stream make room for `between` tokens.
   */
  rotate(rotations: Rotations, between = 0): void {
    this.#map();
    for (const [index, segment] of this.#segments.entries()) {
      // Keys that count as stored `offset` further on meet a query that is rotated back by as much.
      const moved = this.#segments[Math.min(index, 1)]!.offset;
      const offset = index === 0 && moved !== 0 ? moved - between : moved;
      const rotation = offset === 0 ? NONE : rotations.rowOf(-offset);
      if (rotation === segment.rotation) continue;
      segment.rotation = rotation;
      for (let row = 0; row < this.#numRows; row++) {
        if (this.#segmentOf[row] === index) this.#rotations[row] = rotation;
      }
    }
  }

  /** See SequenceCache.rewindable. */
  rewindable(to: number): "exact" | "approximate" | "gone" {
    const { received, measured, choice } = this.view;
    const chosen = choice !== null && choice.chosenAt >= to;
    const measures = received !== null || (measured !== null && !this.#hasThin) || chosen;
    if (to >= this.#exactFrom && !(measures && to <= this.lastPosition)) return "exact";
    return to > this.#newestLost + 1 || this.#newestLost === NONE ? "approximate" : "gone";
  }

  /** Forgets tokens at position `to` and after, as if never stored. Returns how many; throws nothing. */
  rewind(to: number): number {
    this.#map();
    let removed = 0;
    while (this.#newest !== NONE && this.#positions[this.#newest]! >= to) {
      this.#remove(this.#newest);
      removed++;
    }
    this.#seen -= removed;
    this.#exactFrom = Math.min(this.#exactFrom, to);
    // Of what was chosen before, nothing is known any more.
    if (this.view.choice && this.view.choice.chosenAt >= to) this.view.choice.chosenAt = NONE;
    this.#removeEmptied();
    this.#settle();
    return removed;
  }

  /** A table with the same tokens on the same pages; either copies a page before writing to it. */
  fork(): LaneTable {
    const fork = new LaneTable(this.#pool, this.group, this.view.maxRows);
    this.#map();
    fork.view.copyFrom(this.view);
    fork.#numRows = this.#numRows;
    fork.#used = this.#used.slice();
    fork.#segmentOf = this.#segmentOf.slice();
    fork.#cursor = this.#cursor.slice();
    fork.#older = this.#older.slice();
    fork.#newer = this.#newer.slice();
    fork.#counts = this.#counts?.slice() ?? null;
    fork.#moved = this.#moved?.slice() ?? null;
    fork.#oldest = this.#oldest;
    fork.#newest = this.#newest;
    for (const [i, { open, held, room, offset, rotation }] of this.#segments.entries()) {
      Object.assign(fork.#segments[i]!, { open: [...open], held, room, offset, rotation });
    }
    fork.#seen = this.#seen;
    fork.#merged = this.#merged;
    fork.#demoted = this.#demoted;
    fork.#dropped = this.#dropped;
    fork.#expired = this.#expired;
    fork.#newestLost = this.#newestLost;
    fork.#exactFrom = this.#exactFrom;
    this.#pool.retain(this.#pageIds.subarray(0, this.numPages));
    return fork;
  }

  /**
   * Takes over rows that hold the stream's next `tokens` tokens, at the positions after the last one: `pages` [rows,
   * lanes] are held once more, and copied before anything is written to them. Only where no row has a free slot, and
   * before any plan has taken anything out. Throws INTERNAL otherwise, OUT_OF_BUDGET where the backend refuses.
   */
  adopt(pages: Int32Array, tokens: number): void {
    const segment = this.#segments[1]!;
    const rows = Math.ceil(tokens / this.#pageTokens);
    if (segment.room > 0 || this.length !== this.#seen || rows * this.#lanes !== pages.length) {
      throw new MillraceError(
        "INTERNAL",
        `A table cannot take over ${tokens} tokens on ${pages.length} pages here.`,
      );
    }
    this.#reserve(this.#numRows + rows);
    this.#map();
    this.#pool.retain(pages);
    this.#pageIds.set(pages, this.numPages);
    for (let left = tokens; left > 0; left -= this.#pageTokens) {
      const row = this.#enterRow(1);
      for (let i = 0; i < Math.min(left, this.#pageTokens); i++) {
        const slot = row * this.#pageTokens + i;
        this.#positions[slot] = this.#seen++;
        this.#fill(row, slot);
        this.#older[slot] = this.#newest;
        this.#newer[slot] = NONE;
        this.#link(slot);
      }
      if (this.#used[row] === this.#pageTokens) segment.open.pop();
    }
    this.#settle();
  }

  /** Pages [rows, lanes] of the tokens at positions `from` to `end`, where a row begins at `from`; a copy. */
  pagesOf(from: number, end: number): Int32Array {
    this.#checkStraight(from);
    const [first, last] = [from / this.#pageTokens, Math.ceil(end / this.#pageTokens)];
    return this.#pageIds.slice(first * this.#lanes, last * this.#lanes);
  }

  /** Holds `pages` [rows, lanes], which have the same contents, instead of its own from position `from` on. */
  exchange(from: number, pages: Int32Array): void {
    this.#checkStraight(from);
    const first = (from / this.#pageTokens) * this.#lanes;
    this.#pool.retain(pages);
    this.#pool.release(this.#pageIds.subarray(first, first + pages.length));
    this.#pageIds.set(pages, first);
  }

  /** Throws INTERNAL unless a row begins with position `from`, as all do where tokens came one by one and none went. */
  #checkStraight(from: number): void {
    this.#map();
    if (from % this.#pageTokens === 0 && this.#positions[from] === from) return;
    throw new MillraceError("INTERNAL", `No row of the table begins with position ${from}.`, { from });
  }

  /** The table's state and views of its memory, valid until it changes. */
  parts(): TableParts {
    this.#map();
    const [sinks, stream] = [this.#segments[0]!, this.#segments[1]!];
    const thin = this.#segments[THIN];
    const state: TableState = {
      rows: this.#numRows,
      segments: [...this.#segmentOf.subarray(0, this.#numRows)],
      open: [[...sinks.open], [...stream.open], ...(thin ? [[...thin.open]] : [])],
      offsets: [sinks.offset, stream.offset],
      seen: this.#seen,
      merged: this.#merged,
      demoted: this.#demoted,
      dropped: this.#dropped,
      expired: this.#expired,
      newestLost: this.#newestLost,
      exactFrom: this.#exactFrom,
    };
    return {
      state,
      positions: this.#positions.subarray(0, this.#numRows * this.#pageTokens),
      mass: this.view.received?.values() ?? null,
      counts: this.#counts?.subarray(0, this.#numRows * this.#pageTokens) ?? null,
      moved: this.#moved?.subarray(0, this.#numRows * this.#pageTokens) ?? null,
      elements: this.view.thin?.elements() ?? null,
      queries: this.view.measured?.values() ?? null,
      chosen: this.view.choice?.slots.words() ?? null,
      chosenAt: this.view.choice ? Int32Array.of(this.view.choice.chosenAt) : null,
      chooser: this.view.choice?.query() ?? null,
      pages: this.#pageIds.subarray(0, this.numPages),
    };
  }

  /**
   * A table of these parts on fresh pages, which the caller has to fill. The parts are trusted: table-snapshot.ts checks
   * what comes from outside. Throws OUT_OF_BUDGET.
   */
  static from(
    pool: KvPool,
    group: CacheGroup,
    {
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
    }: Omit<TableParts, "pages">,
  ): LaneTable {
    const { rows } = state;
    const table = new LaneTable(pool, group, roomFor(rows));
    table.#map();
    try {
      pool.take(table.#pageIds.subarray(0, rows * table.#lanes));
    } catch (error) {
      table.dispose();
      throw error;
    }
    table.#numRows = rows;
    table.#positions.set(positions);
    table.#rotations.fill(NONE, 0, rows);
    table.#segmentOf.set(state.segments);
    table.view.thin?.rows().set(state.segments.map((segment) => Number(segment === THIN)));
    if (elements) table.view.thin?.elements().set(elements);
    if (queries) table.view.measured?.values().set(queries);
    const slots: number[] = [];
    for (const [slot, position] of positions.entries()) {
      if (position === NONE) continue;
      slots.push(slot);
      table.#used[table.#rowOf(slot)]!++;
    }
    slots.sort((a, b) => positions[a]! - positions[b]!);
    for (const slot of slots) {
      table.#older[slot] = table.#newest;
      table.#newer[slot] = NONE;
      table.#link(slot);
    }
    for (let row = 0; row < rows; row++) {
      const segment = table.#segments[state.segments[row]!]!;
      segment.held += table.#used[row]!;
      segment.room += segment.pageTokens - table.#used[row]!;
    }
    for (const [i, segment] of table.#segments.entries()) {
      segment.open.push(...(state.open[i] ?? []));
      segment.offset = state.offsets[i] ?? 0;
    }
    table.#seen = state.seen;
    table.#merged = state.merged;
    table.#demoted = state.demoted;
    table.#dropped = state.dropped;
    table.#expired = state.expired;
    table.#newestLost = state.newestLost;
    table.#exactFrom = state.exactFrom;
    table.#settle();
    if (mass) table.view.received?.values().set(mass);
    if (moved) table.#moved?.set(moved);
    if (counts) {
      table.#counts?.set(counts);
      table.view.counted?.values().set(Float32Array.from(counts, Math.log));
    }
    const { choice } = table.view;
    if (choice && chosen && chosenAt && chooser) {
      choice.slots.words().set(chosen);
      choice.chosenAt = chosenAt[0]!;
      choice.query().set(chooser);
    }
    return table;
  }

  dispose(): void {
    this.#map();
    this.#pool.release(this.#pageIds.subarray(0, this.numPages));
    this.#numRows = 0;
    this.view.dispose();
  }

  /** A row's page of one lane with whole keys: the page itself, or a copy where it is thin. Read only. */
  pageOf(row: number, lane: number): Uint8Array {
    const { arena, pageBytes } = this.#pool;
    const { codec, headWidth, thin } = this.group;
    const page = arena.bytes(this.view.pageIds()[row * this.#lanes + lane]! * pageBytes, pageBytes);
    if (!thin || this.#segmentOf[row] !== THIN) return page;
    return thickened(codec, headWidth, page, thin.pageTokens, this.view.thin!.elementsOf(lane));
  }

  #rowOf(slot: number): number {
    return Math.floor(slot / this.#pageTokens);
  }

  #map(): void {
    this.#pageIds = this.view.pageIds();
    this.#positions = this.view.positions();
    this.#rotations = this.view.rotations();
  }

  /** How many of the next tokens go to either segment. Once something has gone, none are settled as they come. */
  #split(incoming: number): [number, number] {
    const first =
      this.#moved && this.#merged + this.#demoted + this.#dropped > 0 ? 0 : (this.group.policy.sinks ?? 0);
    const toSinks = Math.min(incoming, Math.max(0, first - this.#seen));
    return [toSinks, incoming - toSinks];
  }

  /** Pages for `incoming` tokens: fresh rows, and copies of shared rows that they would be written to. */
  #need(incoming: number): PageNeed {
    let rows = 0;
    const copied = new Set<number>();
    for (const { into } of this.#merges) {
      if (this.#isShared(this.#rowOf(into))) copied.add(this.#rowOf(into));
    }
    if (this.#settles) return this.#needToSettle(incoming);
    const leaving = this.#leavingByRow();
    const used = (row: number) => this.#used[row]! - (leaving.get(row) ?? 0);
    for (const [i, count] of this.#split(incoming).entries()) {
      const { open, pageTokens } = this.#segments[i]!;
      const opened = i === 1 ? [...leaving.keys()].filter((row) => this.#used[row] === pageTokens) : [];
      rows += this.#freshRowsFor(count, [...open, ...opened], used, pageTokens, copied);
    }
    const thin = this.#segments[THIN];
    const thinRows = thin
      ? this.#freshRowsFor(this.#thinning.length, thin.open, used, thin.pageTokens, copied)
      : 0;
    // Rows that tokens leave come back only after these have found their place, and then serve the incoming ones.
    const left = [...leaving.keys()].filter((row) => used(row) === 0 && !this.#isShared(row)).length;
    this.#freshRows = rows + thinRows;
    let emptied = 0;
    for (const row of this.#emptied) if (!this.#isShared(row)) emptied++;
    const taken = thinRows + Math.max(0, rows - left) + copied.size;
    return { taken: taken * this.#lanes, returned: emptied * this.#lanes };
  }

  /** How many tokens of each row the staged plan thins; rows in the order in which they are first left. */
  #leavingByRow(): Map<number, number> {
    const leaving = new Map<number, number>();
    for (const slot of this.#thinning) {
      const row = this.#rowOf(slot);
      leaving.set(row, (leaving.get(row) ?? 0) + 1);
    }
    return leaving;
  }

  /** Rows that `count` tokens take beyond the holes of open ones, last first; adds those to `copied` that are shared. */
  #freshRowsFor(
    count: number,
    open: readonly number[],
    usedOf: (row: number) => number,
    pageTokens: number,
    copied: Set<number>,
  ): number {
    let left = count;
    for (let at = open.length - 1; at >= 0 && left > 0; at--) {
      const row = open[at]!;
      const used = usedOf(row);
      if (used === 0) continue;
      if (this.#isShared(row)) copied.add(row);
      left -= pageTokens - used;
    }
    return Math.ceil(Math.max(0, left) / pageTokens);
  }

  /** As `#need`, where all that stays goes over into the first segment: any of its pages may be written to. */
  #needToSettle(incoming: number): PageNeed {
    let [emptied, left, copied, room] = [0, 0, 0, -this.#segments[1]!.held];
    for (let row = 0; row < this.#numRows; row++) {
      const shared = this.#isShared(row);
      if (this.#used[row] === 0) emptied += shared ? 0 : 1;
      else if (this.#segmentOf[row] === 1) left += shared ? 0 : 1;
      else {
        copied += shared ? 1 : 0;
        room += this.#pageTokens - this.#used[row]!;
      }
    }
    const added = Math.ceil(Math.max(0, -room) / this.#pageTokens);
    const fresh = Math.ceil(incoming / this.#pageTokens);
    this.#freshRows = added + fresh;
    // Rows that tokens leave come back only after these have found their place, and then serve the incoming ones.
    const taken = copied + added + Math.max(0, fresh - left);
    return { taken: taken * this.#lanes, returned: emptied * this.#lanes };
  }

  #reserve(rows: number): void {
    if (rows <= this.view.maxRows) return;
    const maxRows = roomFor(rows);
    this.view.grow(maxRows);
    this.#used = grown(this.#used, maxRows);
    this.#cursor = grown(this.#cursor, maxRows);
    this.#older = grown(this.#older, maxRows * this.#pageTokens);
    this.#newer = grown(this.#newer, maxRows * this.#pageTokens);
    if (this.#counts) this.#counts = grown(this.#counts, maxRows * this.#pageTokens);
    if (this.#moved) this.#moved = grown(this.#moved, maxRows * this.#pageTokens);
    const segmentOf = new Uint8Array(maxRows);
    segmentOf.set(this.#segmentOf);
    this.#segmentOf = segmentOf;
    this.#map();
  }

  #stageRemoval(kind: Removal["kind"], slot: number): void {
    const position = this.#rowOf(slot) < this.#numRows ? (this.#positions[slot] ?? NONE) : NONE;
    if (position === NONE) {
      throw new MillraceError(
        "INTERNAL",
        `Policy ${this.group.policy.id} planned to ${kind} slot ${slot}, which holds no token.`,
        { slot },
      );
    }
    const moved = this.#moved?.[slot] ?? 0;
    this.#removals.push({ kind, slot, position, count: Math.abs(this.#counts?.[slot] ?? 1), moved });
    this.#remove(slot);
  }

  #stageThin({ slots, elements }: Extract<PlanStep, { kind: "thin" }>, chosen: boolean): void {
    const { lanes, thin } = this.group;
    const given = elements?.length ?? 0;
    const fits = (chosen ? 0 : lanes.length * (thin?.keyWidth ?? 0)) === given;
    const isWhole = (slot: number) =>
      this.#positions[slot] !== NONE && this.#segmentOf[this.#rowOf(slot)] === 1;
    if (
      !thin ||
      !fits ||
      !Array.from(slots).every(isWhole) ||
      new Set(Array.from(slots)).size < slots.length
    ) {
      throw new MillraceError(
        "INTERNAL",
        `Policy ${this.group.policy.id} planned to thin ${slots.length} keys to ${given} elements in all; it must declare ` +
          `"thins", name tokens of the stream that are not thin, and choose elements where none is thin.`,
        { slots: slots.length, elements: given },
      );
    }
    this.#thinning.push(...Array.from(slots));
    this.#thinning.sort((a, b) => this.#positions[a]! - this.#positions[b]!);
    this.#elements = elements;
  }

  #checkMerge({ into, slots, weights }: MergeStep): void {
    const holds = this.#rowOf(into) < this.#numRows && this.#positions[into] !== NONE;
    const wanted = this.#lanes * (1 + slots.length);
    if (this.#counts && holds && weights.length === wanted) return;
    throw new MillraceError(
      "INTERNAL",
      `Policy ${this.group.policy.id} planned to merge ${slots.length} tokens into slot ${into} by ${weights.length} ` +
        `weights; it must declare "merges", the slot hold a token that stays, and the weights be ${wanted}.`,
      { into, slots: slots.length, weights: weights.length },
    );
  }

  #checkSettle(): void {
    const room = this.group.policy.sinks ?? 0;
    if (this.#moved && this.length <= room) return;
    throw new MillraceError(
      "INTERNAL",
      `Policy ${this.group.policy.id} planned to settle ${this.length} tokens; it must declare "settles", and as "sinks" ` +
        `room for them, which is ${room}.`,
      { tokens: this.length, room },
    );
  }

  /**
   * Brings all tokens into the first segment, one position after another up to `nextPosition` - 1. How far that segment
   * is moved as a whole is chosen so that as many settled keys as can be stay as they are: a key is written anew only
   * when tokens between it and most others go, so at most as often as there are older tokens when it is settled, however
   * long the stream.
   */
  #settleAll(nextPosition: number): void {
    const [settled, stream] = [this.#segments[0]!, this.#segments[1]!];
    const first = nextPosition - this.length;
    const storedAt = (slot: number) => this.#positions[slot]! + this.#moved![slot]!;
    settled.offset = this.#commonOffset(first, storedAt);
    for (const slot of [...walk(this.#oldest, this.#newer)]) {
      if (this.#segmentOf[this.#rowOf(slot)] === 0) continue;
      if (settled.open.length === 0) {
        this.#addRow(0);
        this.#settle();
      }
      const row = settled.open.at(-1)!;
      this.#unshare(row);
      this.#moveToken(stream, slot, settled, row);
    }
    const turner = new KeyTurner(this.group);
    let position = first;
    for (const slot of walk(this.#oldest, this.#newer)) {
      const by = position++ - settled.offset - storedAt(slot);
      if (by === 0) continue;
      this.#unshare(this.#rowOf(slot));
      for (let lane = 0; lane < this.#lanes; lane++) {
        const { page, slot: at } = this.#places([slot], lane)[0]!;
        turner.turn(lane, page, at, by);
      }
      this.#moved![slot]! += by;
    }
    for (let row = 0; row < this.#numRows; row++) if (this.#used[row] === 0) this.#emptied.push(row);
    this.#removeEmptied();
  }

  /** Stores the keys of the tokens at these positions in part, in rows of their own. */
  #thin(thinning: ReadonlySet<number>): void {
    const [whole, thin] = [this.#segments[1]!, this.#segments[THIN]!];
    if (this.#elements) this.view.thin!.elements().set(this.#elements);
    for (const slot of [...walk(this.#oldest, this.#newer)]) {
      if (!thinning.has(this.#positions[slot]!)) continue;
      if (thin.open.length === 0) {
        this.#addRow(THIN);
        this.#settle();
      }
      const row = thin.open.at(-1)!;
      this.#unshare(row);
      this.#moveToken(whole, slot, thin, row);
    }
    this.#thinning.length = 0;
    for (let row = 0; row < this.#numRows; row++) if (this.#used[row] === 0) this.#emptied.push(row);
    this.#removeEmptied();
  }

  /** The offset under which most settled tokens stand right when the oldest token comes to stand at `first`. */
  #commonOffset(first: number, storedAt: (slot: number) => number): number {
    const votes = new Map<number, number>();
    let position = first;
    for (const slot of walk(this.#oldest, this.#newer)) {
      const offset = position++ - storedAt(slot);
      if (this.#segmentOf[this.#rowOf(slot)] === 0) votes.set(offset, (votes.get(offset) ?? 0) + 1);
    }
    let [common, most] = [0, 0];
    for (const [offset, count] of votes) if (count > most) [common, most] = [offset, count];
    return common;
  }

  #merge({ into, slots, weights }: MergeStep): void {
    this.#unshare(this.#rowOf(into));
    const all = [into, ...Array.from(slots)];
    for (let lane = 0; lane < this.#lanes; lane++) {
      const part = weights.subarray(lane * all.length, (lane + 1) * all.length);
      mergeInto(this.group, this.#places(all, lane), part);
    }
    const counts = this.#counts!;
    const count = all.reduce((sum, slot) => sum + counts[slot]!, 0);
    counts[into] = count;
    this.view.counted!.values()[into] = Math.log(count);
    this.view.received?.gather(slots, into);
    // Without what became part of it, it cannot be had again.
    this.#newestLost = Math.max(this.#newestLost, this.#positions[into]!);
  }

  #places(slots: readonly number[], lane: number): Place[] {
    const { arena, pageBytes } = this.#pool;
    return slots.map((slot) => {
      const row = this.#rowOf(slot);
      const page = arena.bytes(this.#pageIds[row * this.#lanes + lane]! * pageBytes, pageBytes);
      const elements = this.#segmentOf[row] === THIN ? this.view.thin!.elementsOf(lane) : null;
      return { page, slot: slot % this.#pageTokens, elements };
    });
  }

  #keys(slots: readonly number[]): Float32Array {
    const size = slots.length * this.group.headWidth;
    const keys = new Float32Array(this.#lanes * size);
    for (let lane = 0; lane < this.#lanes; lane++)
      keys.set(keysAt(this.group, this.#places(slots, lane)), lane * size);
    return keys;
  }

  /** Takes a token out; its neighbours stay noted in its slot, so that `#link` in reverse order puts it back. */
  #remove(slot: number): void {
    const row = this.#rowOf(slot);
    const segment = this.#segments[this.#segmentOf[row]!]!;
    if (this.#used[row] === segment.pageTokens) segment.open.push(row);
    this.#used[row]!--;
    if (this.#used[row] === 0) this.#emptied.push(row);
    this.#cursor[row] = Math.min(this.#cursor[row]!, slot - row * this.#pageTokens);
    segment.held--;
    segment.room++;
    this.#positions[slot] = NONE;
    const older = this.#older[slot]!;
    const newer = this.#newer[slot]!;
    if (older === NONE) this.#oldest = newer;
    else this.#newer[older] = newer;
    if (newer === NONE) this.#newest = older;
    else this.#older[newer] = older;
  }

  /** Makes the neighbours noted in `slot` point at it. */
  #link(slot: number): void {
    const older = this.#older[slot]!;
    const newer = this.#newer[slot]!;
    if (older === NONE) this.#oldest = slot;
    else this.#newer[older] = slot;
    if (newer === NONE) this.#newest = slot;
    else this.#older[newer] = slot;
  }

  #isShared(row: number): boolean {
    return this.#pool.isShared(this.#pageIds[row * this.#lanes]!);
  }

  #unshare(row: number): void {
    if (!this.#isShared(row)) return;
    this.#pool.unshare(this.#pageIds.subarray(row * this.#lanes, (row + 1) * this.#lanes));
  }

  #addRow(index: number): number {
    const row = this.#numRows;
    this.#reserve(row + 1);
    this.#pool.take(this.#pageIds.subarray(row * this.#lanes, (row + 1) * this.#lanes));
    return this.#enterRow(index);
  }

  /** Counts the row whose pages stand behind all others. */
  #enterRow(index: number): number {
    const row = this.#numRows++;
    this.#positions.fill(NONE, row * this.#pageTokens, (row + 1) * this.#pageTokens);
    const segment = this.#segments[index]!;
    this.#rotations[row] = segment.rotation;
    this.#used[row] = 0;
    this.#cursor[row] = 0;
    this.#segmentOf[row] = index;
    this.view.thin?.rows().fill(Number(index === THIN), row, row + 1);
    segment.open.push(row);
    segment.room += segment.pageTokens;
    return row;
  }

  /** First free slot of an open row. */
  #freeSlot(row: number): number {
    let slot = row * this.#pageTokens + this.#cursor[row]!;
    while (this.#positions[slot] !== NONE) slot++;
    return slot;
  }

  /** Counts a token that was put into the first free slot of `row`. */
  #fill(row: number, slot: number): void {
    const segment = this.#segments[this.#segmentOf[row]!]!;
    this.#used[row]!++;
    this.#cursor[row] = slot + 1 - row * this.#pageTokens;
    segment.held++;
    segment.room--;
  }

  #removeEmptied(): void {
    // From the end, so that the row which takes a removed row's place is never one to be removed itself.
    this.#emptied.sort((a, b) => b - a);
    for (const row of this.#emptied) this.#removeRow(row);
    this.#emptied.length = 0;
  }

  /** Gives an empty row back; the last row takes its place. */
  #removeRow(row: number): void {
    const segment = this.#segments[this.#segmentOf[row]!]!;
    const { open } = segment;
    open.splice(open.indexOf(row), 1);
    segment.room -= segment.pageTokens;
    this.#pool.release(this.#pageIds.subarray(row * this.#lanes, (row + 1) * this.#lanes));
    const last = --this.#numRows;
    if (row === last) return;
    this.#pageIds.copyWithin(row * this.#lanes, last * this.#lanes, (last + 1) * this.#lanes);
    this.#rotations[row] = this.#rotations[last]!;
    this.view.thin?.rows().copyWithin(row, last, last + 1);
    this.#used[row] = this.#used[last]!;
    this.#cursor[row] = this.#cursor[last]!;
    this.#segmentOf[row] = this.#segmentOf[last]!;
    const renamed = this.#segments[this.#segmentOf[row]!]!.open;
    const at = renamed.indexOf(last);
    if (at >= 0) renamed[at] = row;
    for (let i = 0; i < this.#pageTokens; i++)
      this.#rename(last * this.#pageTokens + i, row * this.#pageTokens + i);
    for (const values of this.view.values) values.moveRow(last, row);
  }

  /** The token (or none) of slot `from` counts as that of slot `to`. */
  #rename(from: number, to: number): void {
    this.#positions[to] = this.#positions[from]!;
    if (this.#positions[from] === NONE) return;
    this.#positions[from] = NONE;
    this.#older[to] = this.#older[from]!;
    this.#newer[to] = this.#newer[from]!;
    if (this.#counts) this.#counts[to] = this.#counts[from]!;
    if (this.#moved) this.#moved[to] = this.#moved[from]!;
    this.#link(to);
  }

  /**
   * Gives rows back while the segment has two rows' worth of holes beyond what the next tokens will fill: the tokens
   * of the emptiest row move into holes of the others, fullest first. Not while one of these rows is shared: to fill
   * the holes of the rest could send the next tokens to a row that must be copied, for which no page was counted.
   */
  #compact(segment: SegmentState, incoming: number): void {
    const { pageTokens } = segment;
    while (segment.room - incoming >= 2 * pageTokens) {
      if (segment.open.some((row) => this.#isShared(row))) return;
      const targets = [...segment.open].sort((a, b) => this.#used[b]! - this.#used[a]!);
      const source = targets.pop()!;
      for (let i = 0; i < this.#pageTokens; i++) {
        const from = source * this.#pageTokens + i;
        if (this.#positions[from] === NONE) continue;
        while (this.#used[targets[0]!] === pageTokens) targets.shift();
        this.#moveToken(segment, from, segment, targets[0]!);
      }
      this.#removeRow(source);
    }
  }

  /** Moves a token of segment `left` to a hole of `row`, an open row of segment `entered`. */
  #moveToken(left: SegmentState, from: number, entered: SegmentState, row: number): void {
    const to = this.#freeSlot(row);
    const source = this.#rowOf(from);
    const { arena, pageBytes } = this.#pool;
    const isThin = [left, entered].map((segment) => segment === this.#segments[THIN]);
    const copier = this.#copiers[!isThin[1] ? "whole" : isThin[0] ? "thin" : "thinning"];
    const narrows = isThin[1] && !isThin[0];
    for (let lane = 0; lane < this.#lanes; lane++) {
      const fromPage = this.#pageIds[source * this.#lanes + lane]! * pageBytes;
      const toPage = this.#pageIds[row * this.#lanes + lane]! * pageBytes;
      const elements = narrows ? this.view.thin!.elementsOf(lane) : null;
      copier.copy(arena, fromPage, from % this.#pageTokens, toPage, to % this.#pageTokens, elements);
    }
    this.#rename(from, to);
    for (const values of this.view.values) values.moveSlot(from, to);
    if (this.#used[source] === left.pageTokens) left.open.push(source);
    this.#used[source]!--;
    this.#cursor[source] = Math.min(this.#cursor[source]!, from % this.#pageTokens);
    left.held--;
    left.room++;
    this.#fill(row, to);
    if (this.#used[row] === entered.pageTokens) entered.open.splice(entered.open.indexOf(row), 1);
  }

  /** Tells the view how many rows there are now. */
  #settle(): void {
    this.view.numPages = this.#numRows;
    for (const values of this.view.values) values.resize(this.#numRows);
  }
}

/** Rows that a table has room for when it must hold `rows`: it grows by doubling. */
function roomFor(rows: number): number {
  let room = FIRST_ROWS;
  while (room < rows) room *= 2;
  return room;
}

function* walk(from: number, next: Int32Array): IterableIterator<number> {
  for (let slot = from; slot !== NONE; slot = next[slot]!) yield slot;
}

function grown(array: Int32Array, length: number): Int32Array<ArrayBuffer> {
  const copy = new Int32Array(length);
  copy.set(array);
  return copy;
}
