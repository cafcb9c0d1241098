import { codecs } from "../codecs/index.js";
import type { CacheGroup } from "../layout.js";
import type { TableRows } from "./rows.js";
import { THIN } from "./segment-rows.js";

/** Where a slot's key and value lie: the bytes of its page, its place there, and which elements of keys that has. */
export interface Place {
  readonly page: Uint8Array;
  readonly slot: number;
  /** Null: all. */
  readonly elements: Int32Array | null;
}

/** Where a token lies in one lane; valid until a row is added. */
export function placeOf(rows: TableRows, slot: number, lane: number): Place {
  const row = rows.rowOf(slot);
  const elements = rows.segmentOf[row] === THIN ? rows.view.thin!.elementsOf(lane) : null;
  return { page: rows.pages.bytes(row, lane), slot: slot % rows.pageTokens, elements };
}

/** Reads the key, zero where an element is not stored, and the value. */
export function load(
  { codec }: CacheGroup,
  { page, slot, elements }: Place,
  key: Float32Array,
  value: Float32Array,
): void {
  if (!elements) {
    codecs[codec].load(page, slot, key, value);
    return;
  }
  const stored = new Float32Array(elements.length);
  codecs[codec].load(page, slot, stored, value);
  key.fill(0);
  for (const [i, element] of elements.entries()) key[element] = stored[i]!;
}

/** Keys in these slots, [lanes, slots, D]; zero where an element is not stored. */
export function keysIn(rows: TableRows, slots: readonly number[]): Float32Array {
  const { headWidth } = rows.group;
  const keys = new Float32Array(rows.lanes * slots.length * headWidth);
  const value = new Float32Array(headWidth);
  let at = 0;
  for (let lane = 0; lane < rows.lanes; lane++) {
    for (const slot of slots) {
      load(rows.group, placeOf(rows, slot, lane), keys.subarray(at, at + headWidth), value);
      at += headWidth;
    }
  }
  return keys;
}
