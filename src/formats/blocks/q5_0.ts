import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitScale, integers } from "./search.js";

const GRID = integers(-16, 15);

/**
 * 32 values d * (q - 16).
 * Bytes: d f16 | 4 of fifth bits, value j in bit j | 16 of lower bits, value j in the low nibble of byte j, value
 * j + 16 in its high one.
 */
export const Q5_0 = defineBlocks({
  name: "Q5_0",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 6 + j]!;
      const fifth = (bytes[at + 2 + (j >> 3)]! >> (j & 7)) & 1;
      const fifthHigh = (bytes[at + 4 + (j >> 3)]! >> (j & 7)) & 1;
      out[to + j] = d * (((pair & 15) | (fifth << 4)) - 16);
      out[to + j + 16] = d * (((pair >> 4) | (fifthHigh << 4)) - 16);
    }
  },
  encodeBlock(values, from, out, at) {
    const d = putF16(out, at, fitScale(values, from, 32, GRID));
    const inverse = d === 0 ? 0 : 1 / d;
    out.fill(0, at + 2, at + 6);
    for (let j = 0; j < 16; j++) {
      const low = GRID.round(values[from + j]! * inverse) + 16;
      const high = GRID.round(values[from + j + 16]! * inverse) + 16;
      out[at + 6 + j] = (low & 15) | ((high & 15) << 4);
      out[at + 2 + (j >> 3)]! |= (low >> 4) << (j & 7);
      out[at + 4 + (j >> 3)]! |= (high >> 4) << (j & 7);
    }
  },
});
