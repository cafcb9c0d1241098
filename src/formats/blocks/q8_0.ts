import { defineBlocks, getF16, int8, putF16 } from "./define.js";

/**
 * 32 values d * q.
 * Bytes: d f16 | 32 of q, two's complement. At eight bits the largest value over 127 is as good as any search.
 */
export const Q8_0 = defineBlocks({
  name: "Q8_0",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    for (let j = 0; j < 32; j++) out[to + j] = d * int8(bytes[at + 2 + j]!);
  },
  encodeBlock(values, from, out, at) {
    let largest = 0;
    for (let j = 0; j < 32; j++) largest = Math.max(largest, Math.abs(values[from + j]!));
    const d = putF16(out, at, largest / 127);
    const inverse = d === 0 ? 0 : 1 / d;
    for (let j = 0; j < 32; j++) {
      out[at + 2 + j] = Math.max(-127, Math.min(127, Math.round(values[from + j]! * inverse)));
    }
  },
});
