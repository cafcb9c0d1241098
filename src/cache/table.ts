import type { LaneView, Plan } from "./contract.js";
import type { CacheGroup } from "./layout.js";
import type { KvPool } from "./pool.js";
import type { Rotations } from "./rotations.js";
import { thickened } from "./slots.js";
import { compact } from "./table/compact.js";
import { type LaneCounts, TokenCounts } from "./table/counts.js";
import { mergeTokens } from "./table/merge.js";
import { NONE } from "./table/order.js";
import type { Incoming, PageNeed } from "./table/page-need.js";
import { partsOf, rowsFrom, type TableParts } from "./table/parts.js";
import { PolicyView } from "./table/policy-view.js";
import { TableRows } from "./table/rows.js";
import { SINKS, STREAM, THIN } from "./table/segment-rows.js";
import { settleTokens } from "./table/settle.js";
import { adoptRows, exchangePages, pagesOf } from "./table/sharing.js";
import { type Removal, StagedPlan } from "./table/staged-plan.js";
import { thinTokens } from "./table/thin.js";
import type { TableView } from "./view.js";

/**
 * The page table of one sequence and one lane group, and the only place where tokens enter and leave it: `TableRows` has
 * those that it holds, `TokenCounts` knows what became of the others, `StagedPlan` is what a policy wants of it.
 *
 * A step is `stage` (takes the plan's tokens out, undone by `rollback`), `reserve`, `evict`, `append`. Each takes time by the
 * tokens it touches, amortised, not by the tokens held. Slots stay what they are until the next `evict`, `rewind`.
 */
export class LaneTable {
  readonly group: CacheGroup;
  readonly view: TableView;
  readonly #rows: TableRows;
  readonly #counts: TokenCounts;
  readonly #staged: StagedPlan;

  constructor(rows: TableRows, counts: TokenCounts) {
    this.group = rows.group;
    this.view = rows.view;
    this.#rows = rows;
    this.#counts = counts;
    this.#staged = new StagedPlan(rows);
  }

  /** An empty table. Throws OUT_OF_BUDGET where the backend has no memory for it. */
  static empty(pool: KvPool, group: CacheGroup): LaneTable {
    return new LaneTable(new TableRows(pool, group), new TokenCounts());
  }

  /**
   * A table of these parts on fresh pages, which the caller has to fill. The parts are trusted: table-snapshot.ts checks
   * what comes from outside. Throws OUT_OF_BUDGET.
   */
  static from(pool: KvPool, group: CacheGroup, parts: Omit<TableParts, "pages">): LaneTable {
    return new LaneTable(rowsFrom(pool, group, parts), TokenCounts.from(parts.state));
  }

  /** Tokens held. */
  get length(): number {
    return this.#rows.length;
  }

  get numPages(): number {
    return this.#rows.numPages;
  }

  /** Bytes of the table itself, pages not counted. */
  get tableBytes(): number {
    return this.view.byteLength;
  }

  /** Position of the newest token held, -1 for none. */
  get lastPosition(): number {
    return this.#mapped().lastPosition;
  }

  counts(): LaneCounts {
    return this.#counts.of(this.length, this.#rows.segments[THIN]?.held ?? 0);
  }

  /** What the policy sees before `incoming` tokens are stored. Valid until the table changes. */
  look(incoming: number, nextPosition: number, budget: number): LaneView {
    return new PolicyView(this.#mapped(), { seen: this.#counts.seen, incoming, nextPosition, budget });
  }

  /**
   * Takes the plan's tokens out but keeps their bytes, so that `rollback` can put them back, and says which pages
   * storing `incoming` tokens will take. Throws INTERNAL, with nothing changed, for a plan that names a slot twice or
   * one that holds no token.
   */
  stage(plan: Plan, incoming: number): PageNeed {
    this.#rows.map();
    return this.#staged.stage(plan, this.#split(incoming));
  }

  /** Grows the table for the staged step. Throws OUT_OF_BUDGET where the backend refuses; `rollback` still works. */
  reserve(): void {
    this.#rows.reserve(this.#rows.numRows + this.#staged.freshRows);
  }

  /** Position of the token in a slot, -1 for none. */
  positionOf(slot: number): number {
    return this.#mapped().positions[slot] ?? NONE;
  }

  /** Tokens that the staged plan takes out. */
  get removals(): readonly Removal[] {
    return this.#staged.removals;
  }

  /** Puts back what `stage` took out. */
  rollback(): void {
    this.#rows.map();
    this.#staged.rollback();
  }

  /**
   * Carries the staged plan out for good: counts, moves segments, gives back pages that became empty. With `demotes` a
   * tier below has taken what the plan drops.
   */
  evict(plan: Plan, incoming: number, nextPosition: number, demotes = false): void {
    const [rows, counts, staged] = [this.#mapped(), this.#counts, this.#staged];
    for (const merge of staged.merges) {
      mergeTokens(rows, merge);
      counts.change(rows.positions[merge.into]!);
    }
    for (const removal of staged.removals) counts.remove(removal, demotes);
    for (const step of plan) {
      if (step.kind === "move")
        rows.segments[step.segment === "sinks" ? SINKS : STREAM]!.offset = step.offset;
    }
    const thinned = staged.thinned;
    if (staged.removals.length > 0 || thinned.size > 0) counts.changeAt(nextPosition);
    rows.removeEmptied();
    if (staged.settles) settleTokens(rows, nextPosition);
    if (thinned.size > 0) thinTokens(rows, thinned, staged.elements);
    staged.clear();
    const coming = this.#split(incoming);
    for (const [i, segment] of rows.segments.entries()) compact(rows, segment, coming[i] ?? 0);
  }

  /**
   * Stores tokens at ascending positions and writes their slots to `slots`. Rows that other sequences share are
   * copied before they are written. To be called after `stage`, `reserve` and `evict`, with as many tokens.
   */
  append(positions: Int32Array, slots: Int32Array): void {
    const rows = this.#mapped();
    const { seen } = this.#counts;
    const { received, measured } = this.view;
    received?.aim(this.group.policy, seen, positions);
    if (rows.hasThin) measured?.rest();
    else measured?.aim(this.group.policy, seen, positions);
    const toSinks = this.#toSinks(positions.length);
    for (let i = 0; i < positions.length; i++) {
      slots[i] = rows.put(rows.writableRow(i < toSinks ? SINKS : STREAM), positions[i]!);
    }
    this.#counts.seen += positions.length;
    rows.publish();
    rows.clear(slots);
  }

  /** Says that the tier below has lost so many tokens, and others that were merged into these. */
  lose(count: number, merged: number): void {
    this.#counts.lose(count, merged);
  }

  /** Where the stream's first token would stand were there no holes between it and the newest. */
  get streamStart(): number {
    const { segments, lastPosition } = this.#mapped();
    return lastPosition + 1 - segments[STREAM]!.held - (segments[THIN]?.held ?? 0);
  }

  /**
   * Writes the segments' offsets into the table as rows of this step's rotations. Sinks that were moved next to the
   * stream make room for `between` tokens.
   */
  rotate(rotations: Rotations, between = 0): void {
    const rows = this.#mapped();
    for (const index of rows.segments.keys()) {
      // Keys that count as stored `offset` further on meet a query that is rotated back by as much.
      const moved = rows.segments[Math.min(index, STREAM)]!.offset;
      const offset = index === SINKS && moved !== 0 ? moved - between : moved;
      rows.rotate(index, offset === 0 ? NONE : rotations.rowOf(-offset));
    }
  }

  /** See SequenceCache.rewindable. */
  rewindable(to: number): "exact" | "approximate" | "gone" {
    const { received, measured, choice } = this.view;
    const chosen = choice !== null && choice.chosenAt >= to;
    const measures = received !== null || (measured !== null && !this.#rows.hasThin) || chosen;
    return this.#counts.rewindable(to, measures && to <= this.lastPosition);
  }

  /** Forgets tokens at position `to` and after, as if never stored. Returns how many; throws nothing. */
  rewind(to: number): number {
    const rows = this.#mapped();
    let removed = 0;
    while (rows.lastPosition >= to) {
      rows.take(rows.order.newest);
      removed++;
    }
    this.#counts.rewind(to, removed);
    // Of what was chosen before, nothing is known any more.
    if (this.view.choice && this.view.choice.chosenAt >= to) this.view.choice.chosenAt = NONE;
    rows.removeEmptied();
    rows.publish();
    return removed;
  }

  /** A table with the same tokens on the same pages; either copies a page before writing to it. */
  fork(): LaneTable {
    return new LaneTable(this.#rows.fork(), TokenCounts.from(this.#counts.saved));
  }

  /**
   * Takes over rows that hold the stream's next `tokens` tokens, at the positions after the last one: `pages` [rows,
   * lanes] are held once more, and copied before anything is written to them. Only where no row has a free slot, and
   * before any plan has taken anything out. Throws INTERNAL otherwise, OUT_OF_BUDGET where the backend refuses.
   */
  adopt(pages: Int32Array, tokens: number): void {
    adoptRows(this.#mapped(), pages, tokens, this.#counts.seen);
    this.#counts.seen += tokens;
  }

  /** Pages [rows, lanes] of the tokens at positions `from` to `end`, where a row begins at `from`; a copy. */
  pagesOf(from: number, end: number): Int32Array {
    return pagesOf(this.#mapped(), from, end);
  }

  /** Holds `pages` [rows, lanes], which have the same contents, instead of its own from position `from` on. */
  exchange(from: number, pages: Int32Array): void {
    exchangePages(this.#mapped(), from, pages);
  }

  /** The table's state and views of its memory, valid until it changes. */
  parts(): TableParts {
    return partsOf(this.#mapped(), this.#counts);
  }

  /** A row's page of one lane with whole keys: the page itself, or a copy where it is thin. Read only. */
  pageOf(row: number, lane: number): Uint8Array {
    const rows = this.#mapped();
    const { codec, headWidth, thin } = this.group;
    const page = rows.pages.bytes(row, lane);
    if (!thin || rows.segmentOf[row] !== THIN) return page;
    return thickened(codec, headWidth, page, thin.pageTokens, this.view.thin!.elementsOf(lane));
  }

  dispose(): void {
    this.#rows.dispose();
  }

  /** The rows, with views of memory as it lies now: every entry goes through here. */
  #mapped(): TableRows {
    this.#rows.map();
    return this.#rows;
  }

  /** How many of the next tokens are sinks. Once something has gone, none are settled as they come. */
  #toSinks(incoming: number): number {
    const { sinks = 0, settles } = this.group.policy;
    const room = settles !== undefined && this.#counts.hasLost ? 0 : sinks;
    return Math.min(incoming, Math.max(0, room - this.#counts.seen));
  }

  #split(incoming: number): Incoming {
    const toSinks = this.#toSinks(incoming);
    return [toSinks, incoming - toSinks];
  }
}
