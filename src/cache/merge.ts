import { codecs } from "./codecs/index.js";
import type { CacheGroup } from "./layout.js";

/** Where a slot's key and value lie: the bytes of its page, its place there, and which elements of keys that has. */
export interface Place {
  readonly page: Uint8Array;
  readonly slot: number;
  /** Null: all. */
  readonly elements: Int32Array | null;
}

/** Replaces the key and value at the first of `places` by the sums of all, each times its weight. */
export function mergeInto(group: CacheGroup, places: readonly Place[], weights: ArrayLike<number>): void {
  const key = new Float32Array(group.headWidth);
  const value = new Float32Array(group.headWidth);
  const keys = new Float64Array(group.headWidth);
  const values = new Float64Array(group.headWidth);
  for (const [p, place] of places.entries()) {
    load(group, place, key, value);
    for (let i = 0; i < group.headWidth; i++) {
      keys[i]! += weights[p]! * key[i]!;
      values[i]! += weights[p]! * value[i]!;
    }
  }
  value.set(values);
  const { page, slot, elements } = places[0]!;
  const stored = Float32Array.from(elements ?? keys, (each, i) => keys[elements ? each : i]!);
  codecs[group.codec].store(page, slot, stored, value);
}

/** Keys at these places, [places, D]; zero where an element is not stored. */
export function keysAt(group: CacheGroup, places: readonly Place[]): Float32Array {
  const width = group.headWidth;
  const keys = new Float32Array(places.length * width);
  const value = new Float32Array(width);
  for (const [p, place] of places.entries()) {
    load(group, place, keys.subarray(p * width, (p + 1) * width), value);
  }
  return keys;
}

function load(
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
