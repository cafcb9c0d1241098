import type { CacheGroup } from "../layout.js";
import type { KvPool } from "../pool.js";
import type { TableState } from "../snapshot.js";
import { TableView } from "../view.js";
import { grown, NONE, TokenOrder } from "./order.js";
import { RowPages, type RowSlot } from "./row-pages.js";
import { SegmentRows, THIN } from "./segment-rows.js";

const FIRST_ROWS = 4;

/**
 * Where the tokens of a page table lie. A row is one page per lane, all holding the same tokens; a slot is a token's place
 * among the rows: slot / pageTokens is its row. A segment's rows hold no other segment's tokens.
 *
 * Knows nothing of plans and counts no tokens but those it holds. To be used within one call of `LaneTable`, which begins
 * with `map`.
 */
export class TableRows {
  readonly group: CacheGroup;
  readonly pool: KvPool;
  readonly view: TableView;
  readonly lanes: number;
  /** Slots of a row. */
  readonly pageTokens: number;
  /** Sinks, stream, and where the policy thins, the thin part of the stream. */
  readonly segments: readonly SegmentRows[];
  readonly pages: RowPages;
  readonly order: TokenOrder;
  numRows = 0;
  /** By slot, NONE where it is free; by row. Host views of the table, see TableView. */
  positions: Int32Array = new Int32Array();
  #rotations: Int32Array = new Int32Array();
  /** By row: tokens held; index of the segment; a slot of the row below which it is full. */
  used: Int32Array;
  segmentOf: Uint8Array;
  #cursor: Int32Array;
  /** By slot: tokens that it stands for; null where the policy merges none. */
  counts: Int32Array | null = null;
  /** By slot: how much further on its key is stored than its position; null where plans do not settle. */
  moved: Int32Array | null = null;
  /** Rows that hold nothing any more. */
  readonly emptied: number[] = [];

  /** Throws OUT_OF_BUDGET where the backend has no memory for the table. */
  constructor(pool: KvPool, group: CacheGroup, maxRows = FIRST_ROWS) {
    this.group = group;
    this.pool = pool;
    this.lanes = group.lanes.length;
    this.view = new TableView(pool.backend, group, maxRows);
    this.pageTokens = this.view.pageTokens;
    this.pages = new RowPages(pool, group, this.view);
    const { thin, policy } = group;
    this.segments = [
      new SegmentRows("sinks", group.pageTokens),
      new SegmentRows("stream", group.pageTokens),
      ...(thin ? [new SegmentRows("stream", thin.pageTokens)] : []),
    ];
    const slots = maxRows * this.pageTokens;
    this.used = new Int32Array(maxRows);
    this.segmentOf = new Uint8Array(maxRows);
    this.#cursor = new Int32Array(maxRows);
    this.order = new TokenOrder(slots);
    if (this.view.counted) this.counts = new Int32Array(slots).fill(1);
    if (policy.settles !== undefined) this.moved = new Int32Array(slots);
  }

  /**
   * Rows in a state that was saved (snapshot.ts), tokens at `positions` [rows, pageTokens], on fresh pages. Both are
   * trusted. Throws OUT_OF_BUDGET.
   */
  static restore(pool: KvPool, group: CacheGroup, state: TableState, positions: Int32Array): TableRows {
    const rows = new TableRows(pool, group, roomFor(state.rows));
    rows.map();
    try {
      rows.pages.take(0, state.rows);
    } catch (error) {
      rows.dispose();
      throw error;
    }
    rows.numRows = state.rows;
    rows.positions.set(positions);
    rows.#rotations.fill(NONE, 0, state.rows);
    rows.segmentOf.set(state.segments);
    rows.view.thin?.rows().set(state.segments.map((segment) => Number(segment === THIN)));
    const slots = [...positions.keys()].filter((slot) => positions[slot] !== NONE);
    slots.sort((a, b) => positions[a]! - positions[b]!);
    for (const slot of slots) {
      rows.order.append(slot);
      rows.used[rows.rowOf(slot)]!++;
    }
    for (let row = 0; row < state.rows; row++) {
      const segment = rows.segments[state.segments[row]!]!;
      segment.held += rows.used[row]!;
      segment.room += segment.pageTokens - rows.used[row]!;
    }
    for (const [i, segment] of rows.segments.entries()) {
      segment.open.push(...(state.open[i] ?? []));
      segment.offset = state.offsets[i] ?? 0;
    }
    rows.publish();
    return rows;
  }

  /** Tokens held. */
  get length(): number {
    return this.segments.reduce((sum, { held }) => sum + held, 0);
  }

  get numPages(): number {
    return this.numRows * this.lanes;
  }

  get hasThin(): boolean {
    return (this.segments[THIN]?.held ?? 0) > 0;
  }

  /** Position of the newest token held, NONE for none. */
  get lastPosition(): number {
    const { newest } = this.order;
    return newest === NONE ? NONE : this.positions[newest]!;
  }

  rowOf(slot: number): number {
    return Math.floor(slot / this.pageTokens);
  }

  /** Index of the segment of a slot's row. */
  segmentAt(slot: number): number {
    return this.segmentOf[this.rowOf(slot)]!;
  }

  /** Takes the host views anew, since backend memory may have moved. */
  map(): void {
    this.pages.map();
    this.positions = this.view.positions();
    this.#rotations = this.view.rotations();
  }

  /** Tells the view how many rows there are now. */
  publish(): void {
    this.view.numPages = this.numRows;
    for (const values of this.view.values) values.resize(this.numRows);
  }

  /** Makes room for so many rows. Throws OUT_OF_BUDGET, with nothing changed. */
  reserve(rows: number): void {
    if (rows <= this.view.maxRows) return;
    const maxRows = roomFor(rows);
    const slots = maxRows * this.pageTokens;
    this.view.grow(maxRows);
    this.used = grown(this.used, maxRows);
    this.#cursor = grown(this.#cursor, maxRows);
    this.order.grow(slots);
    if (this.counts) this.counts = grown(this.counts, slots);
    if (this.moved) this.moved = grown(this.moved, slots);
    const segmentOf = new Uint8Array(maxRows);
    segmentOf.set(this.segmentOf);
    this.segmentOf = segmentOf;
    this.map();
  }

  /** A row of a segment with a free slot, whose pages nobody else holds: one of those there are, or a fresh one. */
  writableRow(index: number): number {
    const row = this.segments[index]!.open.at(-1) ?? this.#addRow(index);
    this.pages.unshare(row);
    return row;
  }

  /** Enters a token, newer than all others, into an open row. Returns its slot. */
  put(row: number, position: number): number {
    const slot = this.#freeSlot(row);
    this.positions[slot] = position;
    this.order.append(slot);
    this.#fill(row, slot);
    return slot;
  }

  /** Takes a token out, its bytes left where they are. */
  take(slot: number): void {
    this.#vacate(slot);
    this.positions[slot] = NONE;
    this.order.remove(slot);
  }

  /** Undoes `take`; to be called in the reverse order. */
  putBack(slot: number, position: number): void {
    const row = this.rowOf(slot);
    if (this.used[row] === 0) this.emptied.pop();
    const used = ++this.used[row]!;
    this.segments[this.segmentOf[row]!]!.filled(row, used);
    this.positions[slot] = position;
    this.order.putBack(slot);
  }

  /** Moves a token, bit by bit, to a free slot of `row`, which may be another segment's. */
  move(from: number, row: number): void {
    const to = this.#freeSlot(row);
    this.pages.copyToken(this.#rowSlot(from), this.#rowSlot(to));
    this.#rename(from, to);
    for (const values of this.view.values) values.moveSlot(from, to);
    this.#vacate(from);
    this.#fill(row, to);
  }

  /** Gives the pages of empty rows back. The last rows take their places, so slots change. */
  removeEmptied(): void {
    // From the end, so that the row which takes a removed row's place is never one to be removed itself.
    this.emptied.sort((a, b) => b - a);
    for (const row of this.emptied) this.#removeRow(row);
    this.emptied.length = 0;
  }

  /** Has queries rotated by this row of the step's rotations when they meet keys of a segment; NONE: not at all. */
  rotate(index: number, rotation: number): void {
    const segment = this.segments[index]!;
    if (rotation === segment.rotation) return;
    segment.rotation = rotation;
    for (let row = 0; row < this.numRows; row++) {
      if (this.segmentOf[row] === index) this.#rotations[row] = rotation;
    }
  }

  /** Forgets what is kept, beside positions, of the tokens that were in these slots before. */
  clear(slots: Int32Array): void {
    for (const values of this.view.values) for (const slot of slots) values.clear(slot);
    if (this.counts) for (const slot of slots) this.counts[slot] = 1;
    if (this.moved) for (const slot of slots) this.moved[slot] = 0;
  }

  /** Counts the row whose pages stand behind all others. */
  enterRow(index: number): number {
    const row = this.numRows++;
    this.positions.fill(NONE, row * this.pageTokens, (row + 1) * this.pageTokens);
    const segment = this.segments[index]!;
    this.#rotations[row] = segment.rotation;
    this.used[row] = 0;
    this.#cursor[row] = 0;
    this.segmentOf[row] = index;
    this.view.thin?.rows().fill(Number(index === THIN), row, row + 1);
    segment.add(row);
    return row;
  }

  /** The same tokens on the same pages, which are held once more. */
  fork(): TableRows {
    const fork = new TableRows(this.pool, this.group, this.view.maxRows);
    this.map();
    fork.view.copyFrom(this.view);
    fork.order.copyFrom(this.order);
    fork.numRows = this.numRows;
    fork.used = this.used.slice();
    fork.segmentOf = this.segmentOf.slice();
    fork.#cursor = this.#cursor.slice();
    fork.counts = this.counts?.slice() ?? null;
    fork.moved = this.moved?.slice() ?? null;
    for (const [i, segment] of fork.segments.entries()) segment.copyFrom(this.segments[i]!);
    this.pages.retain(0, this.numRows);
    return fork;
  }

  dispose(): void {
    this.map();
    this.pages.release(0, this.numRows);
    this.numRows = 0;
    this.view.dispose();
  }

  #addRow(index: number): number {
    const row = this.numRows;
    this.reserve(row + 1);
    this.pages.take(row);
    return this.enterRow(index);
  }

  /** Gives an empty row back; the last row takes its place. */
  #removeRow(row: number): void {
    this.segments[this.segmentOf[row]!]!.remove(row);
    this.pages.release(row);
    const last = --this.numRows;
    if (row === last) return;
    this.pages.of(row).set(this.pages.of(last));
    this.#rotations[row] = this.#rotations[last]!;
    this.view.thin?.rows().copyWithin(row, last, last + 1);
    this.used[row] = this.used[last]!;
    this.#cursor[row] = this.#cursor[last]!;
    this.segmentOf[row] = this.segmentOf[last]!;
    this.segments[this.segmentOf[row]!]!.rename(last, row);
    for (let i = 0; i < this.pageTokens; i++)
      this.#rename(last * this.pageTokens + i, row * this.pageTokens + i);
    for (const values of this.view.values) values.moveRow(last, row);
  }

  /** The token (or none) of slot `from` counts as that of slot `to`. */
  #rename(from: number, to: number): void {
    this.positions[to] = this.positions[from]!;
    if (this.positions[from] === NONE) return;
    this.positions[from] = NONE;
    if (this.counts) this.counts[to] = this.counts[from]!;
    if (this.moved) this.moved[to] = this.moved[from]!;
    this.order.rename(from, to);
  }

  /** First free slot of an open row. */
  #freeSlot(row: number): number {
    let slot = row * this.pageTokens + this.#cursor[row]!;
    while (this.positions[slot] !== NONE) slot++;
    return slot;
  }

  /** Counts a token that was put into the first free slot of `row`. */
  #fill(row: number, slot: number): void {
    const used = ++this.used[row]!;
    this.#cursor[row] = slot + 1 - row * this.pageTokens;
    this.segments[this.segmentOf[row]!]!.filled(row, used);
  }

  /** Counts a token less in the row of `slot`. */
  #vacate(slot: number): void {
    const row = this.rowOf(slot);
    const used = --this.used[row]!;
    if (used === 0) this.emptied.push(row);
    this.#cursor[row] = Math.min(this.#cursor[row]!, slot - row * this.pageTokens);
    this.segments[this.segmentOf[row]!]!.left(row, used);
  }

  #rowSlot(slot: number): RowSlot {
    const row = this.rowOf(slot);
    return { row, slot: slot % this.pageTokens, isThin: this.segmentOf[row] === THIN };
  }
}

/** Rows that a table has room for when it must hold `rows`: it grows by doubling. */
function roomFor(rows: number): number {
  let room = FIRST_ROWS;
  while (room < rows) room *= 2;
  return room;
}
