import { f16ToF32, f32ToF16 } from "../../formats/f16.js";
import type { Codec } from "./contract.js";
import { GROUP } from "./contract.js";
import { groupBytes, paddedWidth } from "./layout.js";

/**
 * Half precision, rounded to nearest, ties to even. What lies past 65504 becomes 65504: one infinite key would make
 * every later query that sees it NaN.
 */
export const f16: Codec = {
  name: "f16",
  id: 1,
  groupBytes: (headWidth, keyWidth = headWidth) => groupBytes(headWidth, keyWidth, 2, 0),
  store(page, slot, key, value) {
    const group = groupOf(page, slot, key.length, value.length);
    const values = GROUP * key.length + (slot % GROUP) * paddedWidth(value.length);
    f16.storeKey(page, slot, key, value.length);
    for (let i = 0; i < value.length; i++) group[values + i] = encode(value[i]!);
    group.fill(0, values + value.length, values + paddedWidth(value.length));
  },
  storeKey(page, slot, key, headWidth = key.length) {
    const group = groupOf(page, slot, key.length, headWidth);
    for (let i = 0; i < key.length; i++) group[i * GROUP + (slot % GROUP)] = encode(key[i]!);
  },
  load(page, slot, key, value) {
    const group = groupOf(page, slot, key.length, value.length);
    const values = GROUP * key.length + (slot % GROUP) * paddedWidth(value.length);
    for (let i = 0; i < key.length; i++) key[i] = f16ToF32(group[i * GROUP + (slot % GROUP)]!);
    for (let i = 0; i < value.length; i++) value[i] = f16ToF32(group[values + i]!);
  },
};

function groupOf(page: Uint8Array, slot: number, keyWidth: number, headWidth: number): Uint16Array {
  const bytes = f16.groupBytes(headWidth, keyWidth);
  return new Uint16Array(page.buffer, page.byteOffset + Math.floor(slot / GROUP) * bytes, bytes / 2);
}

const LARGEST = 65504;
const encode = (x: number): number => f32ToF16(Math.max(-LARGEST, Math.min(LARGEST, x)));
