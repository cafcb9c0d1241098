import { defineBlocks, getF16, putF16 } from "./define.js";
import { fitSuperScale, integers } from "./search.js";

const GRID = integers(-4, 3);

/**
 * 256 values in 16 sub-blocks of 16: d * (scale[j] - 32) * (q - 4).
 * Bytes: 32 of third bits | 64 of lower bits | 12 of scales | d f16.
 * Value i has its third bit in byte i mod 32 at bit floor(i / 32), its lower two as in Q2_K.
 * Scale j has its lower four bits in byte j mod 8 (high nibble from j = 8 on), its upper two in byte 8 + j mod 4 at bit
 * 2 * floor(j / 4).
 */
export const Q3_K = defineBlocks({
  name: "Q3_K",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at + 108);
    for (let j = 0; j < 16; j++) {
      const lower = (bytes[at + 96 + (j & 7)]! >> ((j >> 3) * 4)) & 15;
      const upper = (bytes[at + 104 + (j & 3)]! >> ((j >> 2) * 2)) & 3;
      const scale = d * ((lower | (upper << 4)) - 32);
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const low = (bytes[at + 32 + ((i >> 7) << 5) + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3;
        const third = (bytes[at + (i & 31)]! >> (i >> 5)) & 1;
        out[to + i] = scale * ((low | (third << 2)) - 4);
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const { d, scales } = fitSuperScale(values, from, 256, 16, GRID, [-32, 31], (value) =>
      putF16(out, at + 108, value),
    );
    out.fill(0, at, at + 108);
    for (let j = 0; j < 16; j++) {
      const scale = d * scales[j]!;
      const stored = scales[j]! + 32;
      out[at + 96 + (j & 7)]! |= (stored & 15) << ((j >> 3) * 4);
      out[at + 104 + (j & 3)]! |= (stored >> 4) << ((j >> 2) * 2);
      for (let i = j * 16; i < j * 16 + 16; i++) {
        const q = (scale === 0 ? 0 : GRID.round(values[from + i]! / scale)) + 4;
        out[at + 32 + ((i >> 7) << 5) + (i & 31)]! |= (q & 3) << (((i >> 5) & 3) * 2);
        out[at + (i & 31)]! |= (q >> 2) << (i >> 5);
      }
    }
  },
});
