import { f16ToF32, f32ToF16 } from "../f16.js";
import { defineBlocks } from "./define.js";

/** Halves, little endian. */
export const F16 = defineBlocks({
  name: "F16",
  decodeBlock(bytes, at, out, to) {
    out[to] = f16ToF32(bytes[at]! | (bytes[at + 1]! << 8));
  },
  encodeBlock(values, from, out, at) {
    const bits = f32ToF16(values[from]!);
    out[at] = bits & 255;
    out[at + 1] = bits >> 8;
  },
});
