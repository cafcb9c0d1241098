import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitAffine, quantizeAffine } from "./search.js";

/**
 * 32 values d * q + m.
 * Bytes: d f16 | m f16 | 16 of q, value j in the low nibble of byte j, value j + 16 in its high one.
 */
export const Q4_1 = defineBlocks({
  name: "Q4_1",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    const m = getF16(bytes, at + 2);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 4 + j]!;
      out[to + j] = d * (pair & 15) + m;
      out[to + j + 16] = d * (pair >> 4) + m;
    }
  },
  encodeBlock(values, from, out, at) {
    const fit = fitAffine(values, from, 32, 15, false);
    const d = putF16(out, at, fit.scale);
    const m = putF16(out, at + 2, fit.min);
    for (let j = 0; j < 16; j++) {
      const low = quantizeAffine(values[from + j]!, d, m, 15);
      const high = quantizeAffine(values[from + j + 16]!, d, m, 15);
      out[at + 4 + j] = low | (high << 4);
    }
  },
});
