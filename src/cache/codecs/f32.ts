import type { Codec } from "./contract.js";
import { GROUP } from "./contract.js";
import { groupBytes, paddedWidth } from "./layout.js";

/** Keys and values as they are. */
export const f32: Codec = {
  name: "f32",
  id: 0,
  groupBytes: (headWidth, keyWidth = headWidth) => groupBytes(headWidth, keyWidth, 4, 0),
  store(page, slot, key, value) {
    const group = groupOf(page, slot, key.length, value.length);
    const values = GROUP * key.length + (slot % GROUP) * paddedWidth(value.length);
    f32.storeKey(page, slot, key, value.length);
    group.set(value, values);
    group.fill(0, values + value.length, values + paddedWidth(value.length));
  },
  storeKey(page, slot, key, headWidth = key.length) {
    const group = groupOf(page, slot, key.length, headWidth);
    for (let i = 0; i < key.length; i++) group[i * GROUP + (slot % GROUP)] = key[i]!;
  },
  load(page, slot, key, value) {
    const group = groupOf(page, slot, key.length, value.length);
    const values = GROUP * key.length + (slot % GROUP) * paddedWidth(value.length);
    for (let i = 0; i < key.length; i++) key[i] = group[i * GROUP + (slot % GROUP)]!;
    value.set(group.subarray(values, values + value.length));
  },
};

function groupOf(page: Uint8Array, slot: number, keyWidth: number, headWidth: number): Float32Array {
  const bytes = f32.groupBytes(headWidth, keyWidth);
  return new Float32Array(page.buffer, page.byteOffset + Math.floor(slot / GROUP) * bytes, bytes / 4);
}
