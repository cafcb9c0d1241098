import { defineBlocks, getF16, putF16 } from "./define.js";
import { IQ4_GRID, IQ4_LEVELS, nearestLevel } from "./iq4-levels.js";
import { fitScale } from "./search.js";

/**
 * 32 values d * level[q], with the levels of iq4-levels.ts.
 * Bytes: d f16 | 16 of q, value j in the low nibble of byte j, value j + 16 in its high one.
 */
export const IQ4_NL = defineBlocks({
  name: "IQ4_NL",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 2 + j]!;
      out[to + j] = d * IQ4_LEVELS[pair & 15]!;
      out[to + j + 16] = d * IQ4_LEVELS[pair >> 4]!;
    }
  },
  encodeBlock(values, from, out, at) {
    const d = putF16(out, at, fitScale(values, from, 32, IQ4_GRID));
    const inverse = d === 0 ? 0 : 1 / d;
    for (let j = 0; j < 16; j++) {
      const low = nearestLevel(values[from + j]! * inverse);
      const high = nearestLevel(values[from + j + 16]! * inverse);
      out[at + 2 + j] = low | (high << 4);
    }
  },
});
