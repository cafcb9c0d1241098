import { f16ToF32, f32ToF16 } from "../f16.js";
import { type BlockFormat, LAYOUTS } from "./contract.js";
import { countBlocks } from "./define.js";

/** Halves, little endian. */
export const F16: BlockFormat = {
  name: "F16",
  blockElements: LAYOUTS.F16.blockElements,
  blockBytes: LAYOUTS.F16.blockBytes,
  decode(bytes, out) {
    const count = countBlocks("F16", out, bytes);
    for (let i = 0; i < count; i++) out[i] = f16ToF32(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
  },
  encode(values, out) {
    const count = countBlocks("F16", values, out);
    for (let i = 0; i < count; i++) {
      const bits = f32ToF16(values[i]!);
      out[2 * i] = bits & 255;
      out[2 * i + 1] = bits >> 8;
    }
  },
};
