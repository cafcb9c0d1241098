import type { KvView } from "../backends/contract.js";
import { MillraceError } from "../errors.js";
import type { Plan } from "./contract.js";
import { type CacheEvent, CacheEvents, type Range, stagedEvents } from "./events.js";
import type { CacheLayout } from "./layout.js";
import type { LowerTier } from "./lower-tier.js";
import type { KvPool } from "./pool.js";
import { type CacheReport, reportOf } from "./report.js";
import type { Rotations } from "./rotations.js";
import { restoreSequence, saveSequence } from "./sequence-snapshot.js";
import type { OpenSnapshot, Snapshot, SnapshotSource } from "./snapshot.js";
import type { PageNeed } from "./table/page-need.js";
import { LaneTable } from "./table.js";

export type { CacheEvent } from "./events.js";
export type { CacheReport, GroupReport } from "./report.js";

/** What a step needs of one sequence. Both arrays are reused by the next `prepare`. */
export interface Prepared {
  /** By group of the layout: for each incoming token the slot that it gets, [count]. */
  readonly slots: readonly Int32Array[];
  /** By group: for `Span.views`. */
  readonly views: readonly KvView[];
}

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
  readonly #events = new CacheEvents();
  readonly #slots: Int32Array[];
  readonly #views: readonly KvView[];
  #nextPosition: number;
  #lower: LowerTier | null = null;
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
    this.#events.hold(this.#events.hasListeners ? this.#stagedEvents(first) : []);
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
    this.#events.release();
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
      this.#events.tell({ kind: "rewind", group, count, ranges: [[to, last]] });
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
    ranges: readonly Range[],
  ): void {
    this.#groups[group]!.table.lose(count, merged);
    // What is lost at once was demoted in this very step: that is told before.
    this.#events.tell({ kind: "drop", group, count: count + merged, ranges });
  }

  /** Tells listeners which tokens the tier below has lent. */
  lent(group: number, count: number, ranges: readonly Range[]): void {
    this.#events.tell({ kind: "recall", group, count, ranges });
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
    return reportOf(this.#tables, this.layout.pageBytes);
  }

  /** Calls `listener` for every change until the returned function is called. */
  onChange(listener: (event: CacheEvent) => void): () => void {
    return this.#events.listen(listener);
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
    const { nextPosition } = this;
    return saveSequence({ tables: this.#tables, nextPosition }, this.#pool, this.layout);
  }

  /**
   * A cache in the state that was saved; it goes on exactly as the saved one. Throws BAD_FORMAT where the snapshot is
   * of another layout, incomplete or contradicts itself, OUT_OF_BUDGET where the pool has too few pages.
   */
  static restore(
    pool: KvPool,
    layout: CacheLayout,
    snapshot: { readonly header: string; readonly bytes: Uint8Array | SnapshotSource },
  ): SequenceCache {
    const { tables, nextPosition } = restoreSequence(pool, layout, snapshot);
    const restored = new SequenceCache(pool, layout, tables);
    restored.#nextPosition = nextPosition;
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
    return this.#groups.flatMap(({ table, plan }, group) => {
      const demotes = this.#lower?.takes(group) ?? false;
      return stagedEvents(table, plan, { group, demotes, nextPosition });
    });
  }

  get #tables(): readonly LaneTable[] {
    return this.#groups.map(({ table }) => table);
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
