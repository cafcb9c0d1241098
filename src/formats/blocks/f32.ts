import { type BlockFormat, LAYOUTS } from "./contract.js";
import { countBlocks } from "./define.js";

/** Singles, little endian, as every machine that Millrace runs on holds them. */
export const F32: BlockFormat = {
  name: "F32",
  blockElements: LAYOUTS.F32.blockElements,
  blockBytes: LAYOUTS.F32.blockBytes,
  decode(bytes, out) {
    countBlocks("F32", out, bytes);
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
  },
  encode(values, out) {
    countBlocks("F32", values, out);
    out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  },
};
