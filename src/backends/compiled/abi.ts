/**
 * The numbers and structs that TypeScript and C agree on: kernels/millrace.h and kernels/formats.h, which a test
 * compares with this file. Everything is little-endian; addresses take 64 bits on every target.
 */
import { MillraceError } from "../../errors.js";
import type { TensorType } from "../../formats/checkpoint.js";
import type { Activation, RowKind } from "../../tape/tape.js";

export const OP = {
  EMBED: 1,
  RMS_NORM: 2,
  QUANTIZE: 3,
  MATMUL: 4,
  ROPE: 5,
  APPEND: 6,
  ATTENTION: 7,
  ATTENTION_MERGE: 8,
  GLU: 9,
  ADD: 10,
  SELECT: 11,
  ROUTE: 12,
  MATMUL_EXPERTS: 13,
  COMBINE: 14,
  PROBE: 15,
  TRAIN_MULTIPLY: 16,
  TRAIN_ATTENTION: 17,
  TRAIN_ATTENTION_BACKWARD: 18,
  TRAIN_NORM: 19,
  TRAIN_NORM_BACKWARD: 20,
  TRAIN_ROPE: 21,
  TRAIN_EMBED: 22,
  TRAIN_EMBED_BACKWARD: 23,
  TRAIN_DECODE: 24,
  TRAIN_GLU: 25,
  TRAIN_GLU_BACKWARD: 26,
  TRAIN_LOSS: 27,
  TRAIN_ADAMW: 28,
  TRAIN_NORMAL: 29,
  TRAIN_ADD: 30,
  TRAIN_ADD_ROW: 31,
  TRAIN_SCALE_ROWS: 32,
  TRAIN_ROW_NORMS: 33,
  TRAIN_SUM_ROWS: 34,
  TRAIN_SUM_SQUARES: 35,
  LOW_RANK_DOWN: 36,
  LOW_RANK_UP: 37,
  TRAIN_MULTIPLY_GROUPS: 38,
  TRAIN_ROUTE: 39,
  TRAIN_PLACES: 40,
  TRAIN_ROUTE_BACKWARD: 41,
  TRAIN_SPREAD: 42,
  TRAIN_COMBINE: 43,
  TRAIN_COMBINE_BACKWARD: 44,
  TRAIN_BLEND: 45,
  TRAIN_BLEND_BACKWARD: 46,
  CHOICE_SCORES: 47,
  CHOICE: 48,
} as const;

export type OpCode = (typeof OP)[keyof typeof OP];

export const ROWS = { tokens: 0, outputs: 1, routes: 2, states: 3 } as const satisfies Record<
  RowKind,
  number
>;

export const ACTIVATIONS = { silu: 0, gelu: 1, gelu_tanh: 2 } as const satisfies Record<Activation, number>;

export const ROPE_STYLES = { interleaved: 0, half: 1 } as const;

/** Weight types in the order of their numbers. */
export const WEIGHT_TYPES = [
  "F32",
  "F16",
  "BF16",
  "Q4_0",
  "Q4_1",
  "Q5_0",
  "Q5_1",
  "Q8_0",
  "Q2_K",
  "Q3_K",
  "Q4_K",
  "Q5_K",
  "Q6_K",
  "IQ4_NL",
  "IQ4_XS",
] as const satisfies readonly TensorType[];

export function weightTypeNumber(type: TensorType): number {
  const number = WEIGHT_TYPES.indexOf(type);
  if (number < 0)
    throw new MillraceError("UNSUPPORTED_TENSOR_TYPE", `No kernel takes weights stored as ${type}.`);
  return number;
}

/** Rows of a packed panel, and tokens of a page's group. */
export const PANEL = 16;

/** Byte offsets in `Op`. */
export const OP_RECORD = {
  bytes: 128,
  code: 0,
  barrier: 4,
  i: 8,
  f: 48,
  p: 64,
  numI: 10,
  numF: 4,
  numP: 8,
} as const;

/** Byte offsets in `Matrix`. */
export const MATRIX = { bytes: 24, at: 0, stride: 8, rows: 16, columns: 20 } as const;

/** Floats of scratch memory per thread in a training op. */
export const TRAIN_SCRATCH = 262144;

/** Byte offsets in `Program`. */
export const PROGRAM = {
  bytes: 40,
  ops: 0,
  step: 8,
  counters: 16,
  barrier: 24,
  numOps: 32,
  threads: 36,
} as const;

/** int32 words of a program's barrier. */
export const BARRIER_WORDS = 32;

/** 32-bit words of `Step`; addresses take two. */
export const STEP = {
  words: 20,
  numTokens: 0,
  numOutputs: 1,
  numSpans: 2,
  numRotations: 3,
  numStates: 4,
  tokens: 6,
  positions: 8,
  outputs: 10,
  spans: 12,
  tokenSpan: 14,
  gumbel: 16,
  states: 18,
} as const;

/** 32-bit words of `Span`. */
export const SPAN = {
  words: 14,
  start: 0,
  count: 1,
  views: 2,
  adapter: 4,
  slots: 6,
  lanes: 8,
  arena: 10,
  pageBytes: 12,
} as const;

/** 32-bit words of `LowRank`. */
export const LOW_RANK = { words: 6, down: 0, up: 2, rank: 4 } as const;

/** 32-bit words of `View`. */
export const VIEW = {
  words: 30,
  pageIds: 0,
  positions: 2,
  rotations: 4,
  mass: 6,
  logCounts: 8,
  thinRows: 10,
  thinElements: 12,
  queries: 14,
  next: 16,
  choice: 18,
  numPages: 20,
  lanes: 21,
  pageTokens: 22,
  codec: 23,
  massFrom: 24,
  seed: 25,
  sharpness: 26,
  noise: 27,
  queriesFrom: 28,
  thinWidth: 29,
} as const;

/** 32-bit words of `Choice`. */
export const CHOICE = {
  words: 20,
  shown: 0,
  chooser: 2,
  scores: 4,
  ends: 6,
  worth: 8,
  firstPosition: 10,
  numPositions: 11,
  tokens: 12,
  first: 13,
  newest: 14,
  stride: 15,
  every: 16,
  reach: 17,
  wholly: 18,
  similar: 19,
} as const;

/** Writes a 64-bit address (or count) below 2^53 as two words. */
export function putAddress(words: Int32Array, at: number, address: number): void {
  words[at] = address | 0;
  words[at + 1] = Math.floor(address / 2 ** 32);
}

export const align = (bytes: number, to = 64): number => Math.ceil(bytes / to) * to;

/** Lays things one behind the other, each aligned, from byte `bytes` on. */
export class Offsets {
  /** Where the next one begins. */
  bytes: number;

  constructor(bytes = 0) {
    this.bytes = align(bytes);
  }

  /** Where the next one begins, of `length` bytes. */
  take(length: number): number {
    const at = this.bytes;
    this.bytes += align(length);
    return at;
  }
}
