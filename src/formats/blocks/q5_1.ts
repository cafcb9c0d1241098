import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitAffine, quantizeAffine } from "./search.js";

/**
 * 32 values d * q + m.
 * Bytes: d f16 | m f16 | 4 of fifth bits, value j in bit j | 16 of lower bits, value j in the low nibble of byte j,
 * value j + 16 in its high one.
 */
export const Q5_1 = defineBlocks({
  name: "Q5_1",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    const m = getF16(bytes, at + 2);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 8 + j]!;
      const fifth = (bytes[at + 4 + (j >> 3)]! >> (j & 7)) & 1;
      const fifthHigh = (bytes[at + 6 + (j >> 3)]! >> (j & 7)) & 1;
      out[to + j] = d * ((pair & 15) | (fifth << 4)) + m;
      out[to + j + 16] = d * ((pair >> 4) | (fifthHigh << 4)) + m;
    }
  },
  encodeBlock(values, from, out, at) {
    const fit = fitAffine(values, from, 32, 31, false);
    const d = putF16(out, at, fit.scale);
    const m = putF16(out, at + 2, fit.min);
    out.fill(0, at + 4, at + 8);
    for (let j = 0; j < 16; j++) {
      const low = quantizeAffine(values[from + j]!, d, m, 31);
      const high = quantizeAffine(values[from + j + 16]!, d, m, 31);
      out[at + 8 + j] = (low & 15) | ((high & 15) << 4);
      out[at + 4 + (j >> 3)]! |= (low >> 4) << (j & 7);
      out[at + 6 + (j >> 3)]! |= (high >> 4) << (j & 7);
    }
  },
});
