import { bf16ToF32, f32ToBf16 } from "../bf16.js";
import { type BlockFormat, LAYOUTS } from "./contract.js";
import { countBlocks } from "./define.js";

/** bfloat16, little endian. */
export const BF16: BlockFormat = {
  name: "BF16",
  blockElements: LAYOUTS.BF16.blockElements,
  blockBytes: LAYOUTS.BF16.blockBytes,
  decode(bytes, out) {
    const count = countBlocks("BF16", out, bytes);
    for (let i = 0; i < count; i++) out[i] = bf16ToF32(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
  },
  encode(values, out) {
    const count = countBlocks("BF16", values, out);
    for (let i = 0; i < count; i++) {
      const bits = f32ToBf16(values[i]!);
      out[2 * i] = bits & 255;
      out[2 * i + 1] = bits >> 8;
    }
  },
};
