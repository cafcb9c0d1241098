import type { KvView } from "../backends/contract.js";
import { MillraceError } from "../errors.js";
import type { Lane, Plan, Segment } from "./contract.js";
import type { CacheLayout } from "./layout.js";
import type { LowerTier } from "./lower-tier.js";
import type { KvPool } from "./pool.js";
import type { Rotations } from "./rotations.js";
import {
  badSnapshot,
  type OpenSnapshot,
  parseHeader,
  SNAPSHOT_VERSION,
  type Snapshot,
  type SnapshotHeader,
  SnapshotReader,
  type SnapshotSource,
} from "./snapshot.js";
import type { PageNeed } from "./table/page-need.js";
import type { Removal } from "./table/staged-plan.js";
import { LaneTable } from "./table.js";
import { restoreTable, savedBytes, savedParts } from "./table-snapshot.js";

/** What a step needs of one sequence. Both arrays are reused by the next `prepare`. */
export interface Prepared {
  /** By group of the layout: for each incoming token the slot that it gets, [count]. */
  readonly slots: readonly Int32Array[];
  /** By group: for `Span.views`. */
  readonly views: readonly KvView[];
}

/** Tokens of one lane group: kept + merged + demoted + dropped + expired = seen, always. */
export interface GroupReport {
  readonly lanes: readonly Lane[];
  readonly policy: string;
  readonly seen: number;
  readonly kept: number;
  /** Of those kept: tokens whose keys are stored without some of their elements. */
  readonly thinned: number;
  /** Part of another token, which is kept (or demoted). */
  readonly merged: number;
  /** In the tier below the cache: not attended unless recalled, and not lost. */
  readonly demoted: number;
  readonly dropped: number;
  /** Out of sight of the layer's own sliding window; nothing was lost with them. */
  readonly expired: number;
  readonly pages: number;
  readonly bytes: number;
}

/** What became of every token that one sequence has seen. */
export interface CacheReport {
  /** Tokens of the stream so far. */
  readonly seen: number;
  /** seen - merged - demoted - dropped. */
  readonly kept: number;
  /** Tokens merged into others, in the tier below, and dropped, of the lane group that keeps least. */
  readonly merged: number;
  readonly demoted: number;
  readonly dropped: number;
  /** Bytes of the pages that this sequence holds, shared ones included, and of its tables. */
  readonly bytes: number;
  readonly groups: readonly GroupReport[];
}

/**
 * Told for every change that a plan or a rewind makes. Ranges are [first, last] original positions; a token counts as
 * as many as were merged into it, whose positions are not told again.
 */
export type CacheEvent =
  | {
      /**
       * "demote": to the tier below, instead of a drop. "drop" of tokens that were demoted before: that tier has lost
       * them. "recall": these demoted tokens are attended again, instead of those recalled before. "thin": the keys of
       * these tokens are stored without some of their elements from now on.
       */
      readonly kind: "drop" | "demote" | "expire" | "rewind" | "recall" | "thin";
      readonly group: number;
      readonly count: number;
      readonly ranges: readonly (readonly [number, number])[];
    }
  | {
      /** These tokens became part of the one at position `into`. */
      readonly kind: "merge";
      readonly group: number;
      readonly into: number;
      readonly count: number;
      readonly ranges: readonly (readonly [number, number])[];
    }
  | { readonly kind: "move"; readonly group: number; readonly segment: Segment; readonly offset: number }
  /** The `count` tokens held count from now on as stored at positions from `first` on, one after another. */
  | { readonly kind: "settle"; readonly group: number; readonly first: number; readonly count: number };

/** A table with what is fixed about it. */
interface Group {
  readonly table: LaneTable;
  /** Most tokens that it may hold, the incoming ones included. */
  readonly budget: number;
  plan: Plan;
  slots: Int32Array;
}

/**
 * The cached keys and values of one sequence: one page table per lane group of the layout, all drawing on one pool.
 *
 * `prepare` before every step, then run the step with what it returned. Nothing here reads or writes keys and values;
 * the backend does, in the slots it is told.
 */
export class SequenceCache implements Disposable {
  readonly layout: CacheLayout;
  readonly #pool: KvPool;
  readonly #groups: readonly Group[];
  readonly #listeners = new Set<(event: CacheEvent) => void>();
  readonly #slots: Int32Array[];
  readonly #views: readonly KvView[];
  #nextPosition: number;
  #lower: LowerTier | null = null;
  /** Events that are told at the end of a step; null between steps. */
  #late: CacheEvent[] | null = null;
  #disposed = false;

  /** An empty cache. Throws INVALID_ARGUMENT where the pool's pages are not the layout's, OUT_OF_BUDGET. */
  constructor(pool: KvPool, layout: CacheLayout, tables?: readonly LaneTable[]) {
    if (pool.pageBytes !== layout.pageBytes) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `The pool has pages of ${pool.pageBytes} bytes, the layout wants ${layout.pageBytes}.`,
        { poolPageBytes: pool.pageBytes, layoutPageBytes: layout.pageBytes },
      );
    }
    this.layout = layout;
    this.#pool = pool;
    this.#groups = (tables ?? makeTables(pool, layout)).map((table) => ({
      table,
      budget: table.group.policy.capacity({ tokens: Number.POSITIVE_INFINITY, step: layout.step }),
      plan: [],
      slots: new Int32Array(1),
    }));
    this.#slots = this.#groups.map(({ slots }) => slots);
    this.#views = this.#groups.map(({ table }) => table.view);
    this.#nextPosition = Math.max(...this.#groups.map(({ table }) => table.lastPosition)) + 1;
  }

  /** Tokens seen. */
  get length(): number {
    return this.#groups[0]!.table.counts().seen;
  }

  /** Tokens held now, a mean over lanes: what a further token attends. */
  get held(): number {
    let [held, lanes] = [0, 0];
    for (const { table } of this.#groups) {
      held += table.length * table.group.lanes.length;
      lanes += table.group.lanes.length;
    }
    return held / lanes;
  }

  /** Original positions of the tokens that a group holds, oldest first, and how many tokens each stands for. */
  *heldBy(group: number): Generator<{ readonly position: number; readonly count: number }> {
    const { table, budget } = this.#groups[group]!;
    const view = table.look(0, this.#nextPosition, budget);
    for (const slot of view.oldest()) yield { position: view.positions[slot]!, count: view.countOf(slot) };
  }

  /** The page tables, by group; the same objects for the life of the cache, updated in place. */
  get views(): readonly KvView[] {
    return this.#views;
  }

  /** Least position that the next token may have. */
  get nextPosition(): number {
    return this.#nextPosition;
  }

  /** Most tokens that `prepare` takes now; longer runs are to be cut. At least 1, at most the layout's step. */
  maxIncoming(): number {
    let most = this.layout.step;
    for (const { table } of this.#groups) {
      most = Math.min(
        most,
        table.group.policy.maxIncoming?.(table.counts().seen) ?? Number.POSITIVE_INFINITY,
      );
    }
    return Math.max(1, most);
  }

  /** Pages that `prepare` would draw from the pool for `count` tokens now, less those that it would give back. */
  pagesNeeded(count: number): number {
    this.#checkOpen();
    const need = this.#stage(count, this.#nextPosition);
    this.#rollback();
    return need.taken - need.returned;
  }

  /**
   * Makes room for the tokens of the next step and finds their slots: plans evictions first, then takes pages, so
   * that neither the policy's nor the byte budget is passed at any moment. What it returns is valid until the next
   * call; `rotations` gathers the offsets of the step's segments and goes into the Step together with it.
   *
   * Positions are ascending and at least `nextPosition`. Throws INVALID_ARGUMENT otherwise, and for more tokens than
   * `maxIncoming()`; OUT_OF_BUDGET where the pool has too few pages; either way the cache stays as it was.
   */
  prepare(positions: Int32Array, rotations: Rotations): Prepared {
    this.#checkOpen();
    this.#checkPositions(positions);
    const count = positions.length;
    const first = positions[0]!;
    let need = this.#stage(count, first);
    if (this.#pool.makeRoom(need)) {
      this.#rollback();
      need = this.#stage(count, first);
    }
    try {
      this.#pool.require(need.taken, need.returned);
      for (const { table } of this.#groups) table.reserve();
    } catch (error) {
      this.#rollback();
      throw error;
    }
    const events = this.#listeners.size > 0 ? this.#stagedEvents(first) : [];
    this.#late = events;
    for (const [g, { table, plan }] of this.#groups.entries()) {
      const demotes = this.#lower?.takes(g) ?? false;
      if (demotes) this.#lower?.take(g, table);
      table.evict(plan, count, first, demotes);
    }
    for (const [i, group] of this.#groups.entries()) {
      if (group.slots.length < count) group.slots = new Int32Array(Math.max(count, group.slots.length * 2));
      const slots = group.slots.length === count ? group.slots : group.slots.subarray(0, count);
      group.table.append(positions, slots);
      group.table.rotate(rotations, this.#lower?.lent(i));
      this.#lower?.place(i, group.table.streamStart, rotations);
      this.#slots[i] = slots;
    }
    this.#nextPosition = positions[count - 1]! + 1;
    this.#late = null;
    for (const event of events) this.#tell(event);
    return { slots: this.#slots, views: this.#views };
  }

  /**
   * What `rewind(to)` would leave: "exact", the cache as it last stood before position `to`; "approximate", the same
   * less what policies have taken out since, and with the attention mass that the forgotten queries gave; "gone", the
   * tokens around `to` are no longer held.
   */
  rewindable(to: number): "exact" | "approximate" | "gone" {
    let worst: "exact" | "approximate" = "exact";
    for (const { table } of this.#groups) {
      const state = table.rewindable(to);
      if (state === "gone") return state;
      if (state === "approximate") worst = state;
    }
    return worst;
  }

  /** Forgets every token at position `to` and after. Throws INVALID_ARGUMENT, changing nothing, where that is gone. */
  rewind(to: number): void {
    this.#checkOpen();
    if (!Number.isSafeInteger(to) || to < 0 || this.rewindable(to) === "gone") {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Cannot rewind to position ${to}: the cache no longer holds the tokens before it. ` +
          `Start again from the beginning, or fork the sequence before going on.`,
        { to, nextPosition: this.#nextPosition },
      );
    }
    if (to >= this.#nextPosition) return;
    const last = this.#nextPosition - 1;
    for (const [group, { table }] of this.#groups.entries()) {
      const count = table.rewind(to);
      this.#tell({ kind: "rewind", group, count, ranges: [[to, last]] });
    }
    this.#nextPosition = to;
    this.#lower?.rewound(to);
  }

  /**
   * Writes the offsets of segments into the tables for a step that stores nothing here: it may attend them, lent tokens
   * left out, and stores its own tokens elsewhere. Until the next `prepare`.
   */
  aim(rotations: Rotations): void {
    this.#checkOpen();
    for (const { table } of this.#groups) table.rotate(rotations);
  }

  /** From now on what plans drop goes to `lower`, as far as it takes it. */
  demoteTo(lower: LowerTier): void {
    this.#lower = lower;
  }

  /**
   * Says that the tier below has lost `count` tokens of a group, and with them those merged into them: they count as
   * dropped, and listeners hear of it.
   */
  lose(
    group: number,
    { count, merged }: { readonly count: number; readonly merged: number },
    ranges: readonly (readonly [number, number])[],
  ): void {
    this.#groups[group]!.table.lose(count, merged);
    const event: CacheEvent = { kind: "drop", group, count: count + merged, ranges };
    // What is lost at once was demoted in this very step: first that is told.
    if (this.#late) this.#late.push(event);
    else this.#tell(event);
  }

  /** Tells listeners which tokens the tier below has lent. */
  lent(group: number, count: number, ranges: readonly (readonly [number, number])[]): void {
    this.#tell({ kind: "recall", group, count, ranges });
  }

  /** Attends a tier's table of lent tokens with a group's own, from the next step on; null ends that. */
  attend(group: number, lent: KvView | null): void {
    this.#groups[group]!.table.view.next = lent;
  }

  /**
   * Takes over the stream's next `tokens` tokens on pages, [rows, lanes] by group, that hold them already, as if they
   * had been run here. Only where every policy keeps all (`CachePolicy.keepsAll`) and no row of a table has a free slot:
   * INTERNAL otherwise.
   */
  adopt(pages: readonly Int32Array[], tokens: number): void {
    this.#checkOpen();
    for (const [g, { table }] of this.#groups.entries()) table.adopt(pages[g]!, tokens);
    this.#nextPosition += tokens;
  }

  /** Pages, as above, of the tokens at positions `from` to `end`; at `from` a row of every table begins. */
  pagesOf(from: number, end: number): Int32Array[] {
    this.#checkOpen();
    return this.#groups.map(({ table }) => table.pagesOf(from, end));
  }

  /** Holds `pages`, as above, which have the same contents, instead of its own from position `from` on. */
  exchange(from: number, pages: readonly Int32Array[]): void {
    this.#checkOpen();
    for (const [g, { table }] of this.#groups.entries()) table.exchange(from, pages[g]!);
  }

  /** A second sequence with the same tokens; pages are shared until either writes to them. Listeners stay here. */
  fork(): SequenceCache {
    this.#checkOpen();
    const tables: LaneTable[] = [];
    try {
      for (const { table } of this.#groups) tables.push(table.fork());
    } catch (error) {
      for (const table of tables) table.dispose();
      throw error;
    }
    const fork = new SequenceCache(this.#pool, this.layout, tables);
    fork.#nextPosition = this.#nextPosition;
    return fork;
  }

  report(): CacheReport {
    this.#checkOpen();
    const groups = this.#groups.map(({ table }): GroupReport => {
      const { lanes, policy } = table.group;
      const pages = table.numPages;
      const bytes = pages * this.layout.pageBytes + table.tableBytes;
      return { lanes, policy: policy.id, ...table.counts(), pages, bytes };
    });
    const seen = this.length;
    const away = ({ merged, demoted, dropped }: GroupReport) => merged + demoted + dropped;
    const { merged, demoted, dropped } = groups.reduce((worst, group) =>
      away(group) > away(worst) ? group : worst,
    );
    const bytes = groups.reduce((sum, group) => sum + group.bytes, 0);
    return { seen, kept: seen - merged - demoted - dropped, merged, demoted, dropped, bytes, groups };
  }

  /** Calls `listener` for every change until the returned function is called. */
  onChange(listener: (event: CacheEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The whole state, for `restore`; see snapshot.ts. Checksums are the caller's. */
  serialize(): Snapshot {
    const { header, byteLength, parts } = this.openSnapshot();
    const bytes = new Uint8Array(byteLength);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return { header, bytes };
  }

  /** As `serialize`, for writing state out without a copy of all of it. */
  openSnapshot(): OpenSnapshot {
    this.#checkOpen();
    const byteLength = this.#groups.reduce((sum, { table }) => sum + savedBytes(table, this.#pool), 0);
    const header: SnapshotHeader = {
      version: SNAPSHOT_VERSION,
      layout: this.layout.fingerprint,
      nextPosition: this.#nextPosition,
      byteLength,
      groups: this.#groups.map(({ table }) => table.parts().state),
    };
    return { header: JSON.stringify(header), byteLength, parts: this.#savedParts() };
  }

  *#savedParts(): Generator<Uint8Array> {
    for (const { table } of this.#groups) yield* savedParts(table, this.#pool);
  }

  /**
   * A cache in the state that was saved; it goes on exactly as the saved one. Throws BAD_FORMAT where the snapshot is
   * of another layout, incomplete or contradicts itself, OUT_OF_BUDGET where the pool has too few pages.
   */
  static restore(
    pool: KvPool,
    layout: CacheLayout,
    { header, bytes }: { readonly header: string; readonly bytes: Uint8Array | SnapshotSource },
  ): SequenceCache {
    const source = bytes instanceof Uint8Array ? new SnapshotReader(bytes) : bytes;
    const state = parseHeader(header);
    if (state.layout !== layout.fingerprint) {
      throw badSnapshot(
        `it was saved with the cache layout "${state.layout}", this one is "${layout.fingerprint}"`,
      );
    }
    if (state.groups.length !== layout.groups.length || state.byteLength !== source.left) {
      throw badSnapshot(
        `it has ${source.left} bytes for ${state.groups.length} groups, not ${state.byteLength}`,
      );
    }
    const seen = state.groups[0]!.seen;
    if (state.groups.some((group) => group.seen !== seen))
      throw badSnapshot("its groups saw different tokens");
    const tables: LaneTable[] = [];
    try {
      for (const [i, group] of layout.groups.entries()) {
        tables.push(restoreTable(pool, group, state.groups[i]!, source, state.nextPosition - 1));
      }
      if (source.left > 0) throw badSnapshot(`${source.left} bytes are left over`);
    } catch (error) {
      for (const table of tables) table.dispose();
      throw error;
    }
    const restored = new SequenceCache(pool, layout, tables);
    restored.#nextPosition = state.nextPosition;
    return restored;
  }

  /** Gives all pages back. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const { table } of this.#groups) table.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #stage(count: number, first: number): PageNeed {
    let taken = 0;
    let returned = 0;
    try {
      for (const group of this.#groups) {
        const { table, budget } = group;
        group.plan = table.group.policy.plan(table.look(count, first, budget));
        const need = table.stage(group.plan, count);
        if (table.length + count > budget) {
          throw new MillraceError(
            "INTERNAL",
            `Policy ${table.group.policy.id} leaves ${table.length} tokens beside ${count} incoming; it may hold ${budget}.`,
            { kept: table.length, incoming: count, budget },
          );
        }
        taken += need.taken;
        returned += need.returned;
      }
    } catch (error) {
      this.#rollback();
      throw error;
    }
    return { taken, returned };
  }

  #rollback(): void {
    for (const { table } of this.#groups) table.rollback();
  }

  /** What the staged plans will have done. */
  #stagedEvents(nextPosition: number): CacheEvent[] {
    const events: CacheEvent[] = [];
    for (const [group, { table, plan }] of this.#groups.entries()) {
      for (const kind of ["drop", "expire"] as const) {
        const removed = table.removals.filter((removal) => removal.kind === kind);
        if (removed.length === 0) continue;
        const told = kind === "drop" && this.#lower?.takes(group) ? "demote" : kind;
        const lost = removed.reduce((sum, removal) => sum + removal.count, 0);
        const count = told === "demote" ? removed.length : lost;
        events.push({ kind: told, group, count, ranges: rangesOf(removed) });
      }
      const merged = table.removals.filter((removal) => removal.kind === "merge");
      for (const step of plan) {
        if (step.kind === "merge") {
          const ranges = rangesOf(merged.splice(0, step.slots.length));
          events.push({
            kind: "merge",
            group,
            into: table.positionOf(step.into),
            count: step.slots.length,
            ranges,
          });
        }
        if (step.kind === "thin") {
          const thinned = Array.from(step.slots, (slot) => ({ position: table.positionOf(slot) }));
          events.push({ kind: "thin", group, count: thinned.length, ranges: rangesOf(thinned) });
        }
        if (step.kind === "move")
          events.push({ kind: "move", group, segment: step.segment, offset: step.offset });
        if (step.kind === "settle") {
          const count = table.length;
          events.push({ kind: "settle", group, first: nextPosition - count, count });
        }
      }
    }
    return events;
  }

  #tell(event: CacheEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  #checkOpen(): void {
    if (this.#disposed) throw new MillraceError("CLOSED", "This sequence's cache was disposed.");
  }

  #checkPositions(positions: Int32Array): void {
    const most = this.maxIncoming();
    if (positions.length < 1 || positions.length > most) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `${positions.length} tokens for one step; this sequence takes 1 to ${most} now.`,
        { tokens: positions.length, most },
      );
    }
    let least = this.#nextPosition;
    for (const position of positions) {
      if (position < least) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          `Position ${position} comes where at least ${least} is wanted; positions of a sequence ascend.`,
          { position, least },
        );
      }
      least = position + 1;
    }
  }
}

function makeTables(pool: KvPool, layout: CacheLayout): LaneTable[] {
  const tables: LaneTable[] = [];
  try {
    for (const group of layout.groups) tables.push(LaneTable.empty(pool, group));
  } catch (error) {
    for (const table of tables) table.dispose();
    throw error;
  }
  return tables;
}

/** Original positions as ascending runs. */
function rangesOf(removals: readonly Pick<Removal, "position">[]): [number, number][] {
  const positions = Int32Array.from(removals, ({ position }) => position).sort();
  const ranges: [number, number][] = [];
  for (const position of positions) {
    const last = ranges.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else ranges.push([position, position]);
  }
  return ranges;
}
