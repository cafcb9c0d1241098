import { defineBlocks, getF16, int8, putF16 } from "./define.js";
import { fitSuperScale, integers } from "./search.js";

const GRID = integers(-32, 31);

/**
 * 256 values in 16 sub-blocks of 16: d * scale[j] * (q - 32).
 * Bytes: 128 of lower nibbles | 64 of upper two bits | 16 of scales, two's complement | d f16.
 * With i = 128 h + 32 p + l: lower nibble in byte 64 h + 32 (p mod 2) + l (high nibble for p >= 2), upper bits in byte
 * 32 h + l at bit 2 p.
 */
export const Q6_K = defineBlocks({
  name: "Q6_K",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at + 208);
    for (let j = 0; j < 16; j++) {
      const scale = d * int8(bytes[at + 192 + j]!);
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const part = (i >> 5) & 3;
        const low = (bytes[at + (i >> 7) * 64 + (part & 1) * 32 + (i & 31)]! >> ((part >> 1) * 4)) & 15;
        const high = (bytes[at + 128 + (i >> 7) * 32 + (i & 31)]! >> (part * 2)) & 3;
        out[to + i] = scale * ((low | (high << 4)) - 32);
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const { d, scales } = fitSuperScale(values, from, 256, 16, GRID, [-128, 127], (value) =>
      putF16(out, at + 208, value),
    );
    out.fill(0, at, at + 192);
    for (let j = 0; j < 16; j++) {
      const scale = d * scales[j]!;
      out[at + 192 + j] = scales[j]!;
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const part = (i >> 5) & 3;
        const q = (scale === 0 ? 0 : GRID.round(values[from + i]! / scale)) + 32;
        out[at + (i >> 7) * 64 + (part & 1) * 32 + (i & 31)]! |= (q & 15) << ((part >> 1) * 4);
        out[at + 128 + (i >> 7) * 32 + (i & 31)]! |= (q >> 4) << (part * 2);
      }
    }
  },
});
