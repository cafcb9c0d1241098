import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitSuperAffine, quantizeAffine } from "./search.js";

/**
 * 256 values in 16 sub-blocks of 16: d * scale[j] * q - dmin * min[j].
 * Bytes: 16 of scale (low nibble) and min (high) | 64 of q | d f16 | dmin f16.
 * Value i lies in byte 32 * floor(i / 128) + i mod 32 at bit 2 * (floor(i / 32) mod 4).
 */
export const Q2_K = defineBlocks({
  name: "Q2_K",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at + 80);
    const dmin = getF16(bytes, at + 82);
    for (let j = 0; j < 16; j++) {
      const packed = bytes[at + j]!;
      const scale = d * (packed & 15);
      const min = dmin * (packed >> 4);
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const q = (bytes[at + 16 + ((i >> 7) << 5) + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3;
        out[to + i] = scale * q - min;
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const { d, dmin, scales, mins } = fitSuperAffine(
      values,
      from,
      256,
      16,
      3,
      15,
      (value) => putF16(out, at + 80, value),
      (value) => putF16(out, at + 82, value),
    );
    out.fill(0, at + 16, at + 80);
    for (let j = 0; j < 16; j++) {
      out[at + j] = scales[j]! | (mins[j]! << 4);
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const q = quantizeAffine(values[from + i]!, d * scales[j]!, -dmin * mins[j]!, 3);
        out[at + 16 + ((i >> 7) << 5) + (i & 31)]! |= q << (((i >> 5) & 3) * 2);
      }
    }
  },
});
