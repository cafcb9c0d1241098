import type { Codec } from "./contract.js";
import { GROUP } from "./contract.js";
import { groupBytes, paddedWidth } from "./layout.js";

const SCALE_BYTES = 2 * GROUP * 4;
/** Below this a token's largest element counts as zero: 127 / max must stay a finite f32. */
const INT8_SMALLEST = 2 ** -100;

/**
 * Signed bytes with one symmetric scale per token and lane, separate for the key and the value:
 *   max = largest |x| of the D elements;  scale = max / 127;  inverse = 127 / max   (each rounded to f32)
 *   q = nearest integer to x * inverse (an f32 product), ties to even;  decoded x = q * scale
 * Where max < 2^-100 scale and q are 0. Half of `scale` bounds the error of an element.
 */
export const int8: Codec = {
  name: "int8",
  id: 2,
  groupBytes: (headWidth, keyWidth = headWidth) => groupBytes(headWidth, keyWidth, 1, SCALE_BYTES),
  store(page, slot, key, value) {
    const { scales, elements } = groupOf(page, slot, key.length, value.length);
    const token = slot % GROUP;
    const values = GROUP * key.length + token * paddedWidth(value.length);
    int8.storeKey(page, slot, key, value.length);
    const valueInverse = scaleOf(value, scales, GROUP + token);
    for (let i = 0; i < value.length; i++) elements[values + i] = quantize(value[i]!, valueInverse);
    elements.fill(0, values + value.length, values + paddedWidth(value.length));
  },
  storeKey(page, slot, key, headWidth = key.length) {
    const { scales, elements } = groupOf(page, slot, key.length, headWidth);
    const token = slot % GROUP;
    const inverse = scaleOf(key, scales, token);
    for (let i = 0; i < key.length; i++) elements[i * GROUP + token] = quantize(key[i]!, inverse);
  },
  load(page, slot, key, value) {
    const { scales, elements } = groupOf(page, slot, key.length, value.length);
    const token = slot % GROUP;
    const values = GROUP * key.length + token * paddedWidth(value.length);
    for (let i = 0; i < key.length; i++) key[i] = elements[i * GROUP + token]! * scales[token]!;
    for (let i = 0; i < value.length; i++) value[i] = elements[values + i]! * scales[GROUP + token]!;
  },
};

function groupOf(page: Uint8Array, slot: number, keyWidth: number, headWidth: number) {
  const start = page.byteOffset + Math.floor(slot / GROUP) * int8.groupBytes(headWidth, keyWidth);
  return {
    scales: new Float32Array(page.buffer, start, SCALE_BYTES / 4),
    elements: new Int8Array(
      page.buffer,
      start + SCALE_BYTES,
      int8.groupBytes(headWidth, keyWidth) - SCALE_BYTES,
    ),
  };
}

/** Writes the scale of `x` to `scales[at]`; returns the factor that takes x to -127 .. 127. */
function scaleOf(x: Float32Array, scales: Float32Array, at: number): number {
  let max = 0;
  for (const element of x) max = Math.max(max, Math.abs(element));
  if (max < INT8_SMALLEST) max = 0;
  scales[at] = max / 127;
  return max === 0 ? 0 : Math.fround(127 / max);
}

// Adding and taking away 1.5 x 2^52 leaves a double rounded to the nearest integer, ties to even.
const ROUNDER = 1.5 * 2 ** 52;
const quantize = (x: number, inverse: number): number => Math.fround(x * inverse) + ROUNDER - ROUNDER;
