/** Tensor type -> how its blocks are stored: one file each, gathered here. */
import type { TensorType } from "../checkpoint.js";
import { BF16 } from "./bf16.js";
import type { BlockFormat } from "./contract.js";
import { F16 } from "./f16.js";
import { F32 } from "./f32.js";
import { IQ4_NL } from "./iq4_nl.js";
import { IQ4_XS } from "./iq4_xs.js";
import { Q2_K } from "./q2_k.js";
import { Q3_K } from "./q3_k.js";
import { Q4_0 } from "./q4_0.js";
import { Q4_1 } from "./q4_1.js";
import { Q4_K } from "./q4_k.js";
import { Q5_0 } from "./q5_0.js";
import { Q5_1 } from "./q5_1.js";
import { Q5_K } from "./q5_k.js";
import { Q6_K } from "./q6_k.js";
import { Q8_0 } from "./q8_0.js";

export const BLOCK_FORMATS = {
  F32,
  F16,
  BF16,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
} satisfies Record<TensorType, BlockFormat>;

export function blockFormat(type: TensorType): BlockFormat {
  return BLOCK_FORMATS[type];
}

export { type BlockFormat, LAYOUTS, rowBytes, tensorBytes } from "./contract.js";
