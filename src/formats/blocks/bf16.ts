import { bf16ToF32, f32ToBf16 } from "../bf16.js";
import { defineBlocks } from "./define.js";

/** bfloat16, little endian. */
export const BF16 = defineBlocks({
  name: "BF16",
  decodeBlock(bytes, at, out, to) {
    out[to] = bf16ToF32(bytes[at]! | (bytes[at + 1]! << 8));
  },
  encodeBlock(values, from, out, at) {
    const bits = f32ToBf16(values[from]!);
    out[at] = bits & 255;
    out[at + 1] = bits >> 8;
  },
});
