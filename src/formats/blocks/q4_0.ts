import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitScale, integers } from "./search.js";

const GRID = integers(-8, 7);

/**
 * 32 values d * (q - 8).
 * Bytes: d f16 | 16 of q, value j in the low nibble of byte j, value j + 16 in its high one.
 */
export const Q4_0 = defineBlocks({
  name: "Q4_0",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 2 + j]!;
      out[to + j] = d * ((pair & 15) - 8);
      out[to + j + 16] = d * ((pair >> 4) - 8);
    }
  },
  encodeBlock(values, from, out, at) {
    const d = putF16(out, at, fitScale(values, from, 32, GRID));
    const inverse = d === 0 ? 0 : 1 / d;
    for (let j = 0; j < 16; j++) {
      const low = GRID.round(values[from + j]! * inverse) + 8;
      const high = GRID.round(values[from + j + 16]! * inverse) + 8;
      out[at + 2 + j] = low | (high << 4);
    }
  },
});
