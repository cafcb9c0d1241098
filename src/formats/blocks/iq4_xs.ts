import { defineBlocks, getF16, putF16 } from "./define.js";
import { IQ4_GRID, IQ4_LEVELS, nearestLevel } from "./iq4-levels.js";
import { fitSuperScale } from "./search.js";

/**
 * 256 values in 8 sub-blocks of 32: d * (scale[j] - 32) * level[q], with the levels of iq4-levels.ts.
 * Bytes: d f16 | 2 of the scales' upper two bits, scale j at bit 2 j | 4 of their lower nibbles, even j low, odd j
 * high | 128 of q, each sub-block as in IQ4_NL.
 */
export const IQ4_XS = defineBlocks({
  name: "IQ4_XS",
  decodeBlock(bytes, at, out, to) {
    const d = getF16(bytes, at);
    const upper = bytes[at + 2]! | (bytes[at + 3]! << 8);
    for (let j = 0; j < 8; j++) {
      const lower = (bytes[at + 4 + (j >> 1)]! >> ((j & 1) * 4)) & 15;
      const scale = d * ((lower | (((upper >> (2 * j)) & 3) << 4)) - 32);
      for (let i = 0; i < 16; i++) {
        const pair = bytes[at + 8 + j * 16 + i]!;
        out[to + j * 32 + i] = scale * IQ4_LEVELS[pair & 15]!;
        out[to + j * 32 + i + 16] = scale * IQ4_LEVELS[pair >> 4]!;
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const { d, scales } = fitSuperScale(values, from, 256, 32, IQ4_GRID, [-32, 31], (value) =>
      putF16(out, at, value),
    );
    out.fill(0, at + 2, at + 8);
    for (let j = 0; j < 8; j++) {
      const scale = d * scales[j]!;
      const inverse = scale === 0 ? 0 : 1 / scale;
      const stored = scales[j]! + 32;
      out[at + 2 + (j >> 2)]! |= (stored >> 4) << ((j & 3) * 2);
      out[at + 4 + (j >> 1)]! |= (stored & 15) << ((j & 1) * 4);
      for (let i = 0; i < 16; i++) {
        const low = nearestLevel(values[from + j * 32 + i]! * inverse);
        const high = nearestLevel(values[from + j * 32 + i + 16]! * inverse);
        out[at + 8 + j * 16 + i] = low | (high << 4);
      }
    }
  },
});
