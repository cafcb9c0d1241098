import { defineBlocks } from "./define.js";

/** Singles, little endian, as they are. */
export const F32 = defineBlocks({
  name: "F32",
  decodeBlock(bytes, at, out, to) {
    out[to] = new DataView(bytes.buffer, bytes.byteOffset + at, 4).getFloat32(0, true);
  },
  encodeBlock(values, from, out, at) {
    new DataView(out.buffer, out.byteOffset + at, 4).setFloat32(0, values[from]!, true);
  },
});
