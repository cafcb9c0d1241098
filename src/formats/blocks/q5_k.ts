import { defineBlocks, getF16, putF16 } from "./define.js";
import { getMin, getScale, putScales } from "./scales6.js";
import { fitSuperAffine, quantizeAffine } from "./search.js";

/**
 * 256 values in 8 sub-blocks of 32: d * scale[j] * q - dmin * min[j].
 * Bytes: d f16 | dmin f16 | 12 of scales and minima (scales6.ts) | 32 of fifth bits: value i of sub-block j in byte i
 * at bit j | 128 of lower bits as in Q4_K.
 */
export const Q5_K = defineBlocks({
  name: "Q5_K",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    const dmin = getF16(bytes, at + 2);
    for (let j = 0; j < 8; j++) {
      const scale = d * getScale(bytes, at + 4, j);
      const min = dmin * getMin(bytes, at + 4, j);
      const source = at + 48 + (j >> 1) * 32;
      const shift = (j & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const fifth = (bytes[at + 16 + i]! >> j) & 1;
        out[to + j * 32 + i] = scale * (((bytes[source + i]! >> shift) & 15) | (fifth << 4)) - min;
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const { d, dmin, scales, mins } = fitSuperAffine(
      values,
      from,
      256,
      32,
      31,
      63,
      (value) => putF16(out, at, value),
      (value) => putF16(out, at + 2, value),
    );
    putScales(out, at + 4, scales, mins);
    out.fill(0, at + 16, at + 176);
    for (let j = 0; j < 8; j++) {
      for (let i = 0; i < 32; i++) {
        const q = quantizeAffine(values[from + j * 32 + i]!, d * scales[j]!, -dmin * mins[j]!, 31);
        out[at + 48 + (j >> 1) * 32 + i]! |= (q & 15) << ((j & 1) * 4);
        out[at + 16 + i]! |= (q >> 4) << j;
      }
    }
  },
});
