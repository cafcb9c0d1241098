import { codecs } from "./codecs/index.js";
import type { CacheGroup } from "./layout.js";

/** Where a slot's key and value lie: the bytes of its page, and its place there. */
export interface Place {
  readonly page: Uint8Array;
  readonly slot: number;
}

/** Replaces the key and value at the first of `places` by the sums of all, each times its weight. */
export function mergeInto(group: CacheGroup, places: readonly Place[], weights: ArrayLike<number>): void {
  const codec = codecs[group.codec];
  const key = new Float32Array(group.headWidth);
  const value = new Float32Array(group.headWidth);
  const keys = new Float64Array(group.headWidth);
  const values = new Float64Array(group.headWidth);
  for (const [p, { page, slot }] of places.entries()) {
    codec.load(page, slot, key, value);
    for (let i = 0; i < group.headWidth; i++) {
      keys[i]! += weights[p]! * key[i]!;
      values[i]! += weights[p]! * value[i]!;
    }
  }
  key.set(keys);
  value.set(values);
  codec.store(places[0]!.page, places[0]!.slot, key, value);
}

/** Keys at these places, [places, D]. */
export function keysAt(group: CacheGroup, places: readonly Place[]): Float32Array {
  const width = group.headWidth;
  const keys = new Float32Array(places.length * width);
  const value = new Float32Array(width);
  for (const [p, { page, slot }] of places.entries()) {
    codecs[group.codec].load(page, slot, keys.subarray(p * width, (p + 1) * width), value);
  }
  return keys;
}
