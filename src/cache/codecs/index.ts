/** Codec name -> codec: one file each, gathered here. */
import type { Codec, CodecName } from "./contract.js";
import { f16 } from "./f16.js";
import { f32 } from "./f32.js";
import { int8 } from "./int8.js";

export const codecs = { f32, f16, int8 } satisfies Record<CodecName, Codec>;
