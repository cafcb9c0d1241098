import type { CacheGroup } from "../layout.js";
import type { KvPool } from "../pool.js";
import { SlotCopier } from "../slots.js";
import type { TableView } from "../view.js";

/** A token's place for `RowPages.copyToken`: its row, its place there, and whether the row is thin. */
export interface RowSlot {
  readonly row: number;
  readonly slot: number;
  readonly isThin: boolean;
}

/** The pages of a table's rows, one per lane. Other tables may hold them, too: whoever writes copies them first. */
export class RowPages {
  /** Page numbers [rows, lanes]: a host view of the table, see TableView. */
  ids: Int32Array = new Int32Array();
  readonly #pool: KvPool;
  readonly #view: TableView;
  readonly #lanes: number;
  /** By whether a token is thin: before, and after. */
  readonly #copiers: { readonly whole: SlotCopier; readonly thinning: SlotCopier; readonly thin: SlotCopier };

  constructor(pool: KvPool, { lanes, codec, headWidth, thin }: CacheGroup, view: TableView) {
    this.#pool = pool;
    this.#view = view;
    this.#lanes = lanes.length;
    const copier = (from: number, to: number) => new SlotCopier(codec, headWidth, { from, to });
    const width = thin?.keyWidth ?? headWidth;
    this.#copiers = {
      whole: copier(headWidth, headWidth),
      thinning: copier(headWidth, width),
      thin: copier(width, width),
    };
  }

  /** Takes the host view anew. */
  map(): void {
    this.ids = this.#view.pageIds();
  }

  /** Page numbers of rows `from` to `end`. */
  of(from: number, end = from + 1): Int32Array {
    return this.ids.subarray(from * this.#lanes, end * this.#lanes);
  }

  /** Bytes of a row's page of one lane. */
  bytes(row: number, lane: number): Uint8Array {
    const { arena, pageBytes } = this.#pool;
    return arena.bytes(this.ids[row * this.#lanes + lane]! * pageBytes, pageBytes);
  }

  isShared(row: number): boolean {
    return this.#pool.isShared(this.ids[row * this.#lanes]!);
  }

  /** Copies a row's pages where others hold them, too. */
  unshare(row: number): void {
    if (this.isShared(row)) this.#pool.unshare(this.of(row));
  }

  /** Gives rows `from` to `end` fresh pages. Throws OUT_OF_BUDGET before taking any. */
  take(from: number, end = from + 1): void {
    this.#pool.take(this.of(from, end));
  }

  retain(from: number, end: number): void {
    this.#pool.retain(this.of(from, end));
  }

  release(from: number, end = from + 1): void {
    this.#pool.release(this.of(from, end));
  }

  /** Puts other pages, which are held once more, in the place of those of rows from `row` on, or behind all. */
  replace(row: number, pages: Int32Array, end = row): void {
    this.#pool.retain(pages);
    this.release(row, end);
    this.ids.set(pages, row * this.#lanes);
  }

  /** Copies a token's key and value bit by bit; a key that goes from a whole row to a thin one loses elements. */
  copyToken(from: RowSlot, to: RowSlot): void {
    const { arena, pageBytes } = this.#pool;
    const copier = this.#copiers[!to.isThin ? "whole" : from.isThin ? "thin" : "thinning"];
    for (let lane = 0; lane < this.#lanes; lane++) {
      const fromPage = this.ids[from.row * this.#lanes + lane]! * pageBytes;
      const toPage = this.ids[to.row * this.#lanes + lane]! * pageBytes;
      const elements = to.isThin && !from.isThin ? this.#view.thin!.elementsOf(lane) : null;
      copier.copy(arena, fromPage, from.slot, toPage, to.slot, elements);
    }
  }
}
