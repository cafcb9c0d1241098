/**
 * A block format says how a run of weights is stored: `blockElements` values in `blockBytes` bytes, blocks one after
 * another, a tensor's rows each a whole number of blocks. Layouts are ggml's, bit for bit.
 */
import { MillraceError } from "../../errors.js";
import type { TensorType } from "../checkpoint.js";

export interface BlockFormat {
  readonly name: TensorType;
  /** Values per block. */
  readonly blockElements: number;
  /** Bytes per block. */
  readonly blockBytes: number;
  /**
   * Decodes `out.length / blockElements` blocks from the start of `bytes` into `out`.
   * Throws INVALID_ARGUMENT where the lengths do not make whole blocks of the same number.
   */
  decode(bytes: Uint8Array, out: Float32Array): void;
  /** Encodes all of `values`, which are finite, into `out`, as near as the format's scale search gets. Throws as `decode`. */
  encode(values: Float32Array, out: Uint8Array): void;
}

interface Layout {
  /** Number of the type in GGUF files (enum ggml_type). */
  readonly ggufId: number;
  readonly blockElements: number;
  readonly blockBytes: number;
}

/** Sizes and file numbers of every tensor type that Millrace reads. */
export const LAYOUTS = {
  F32: { ggufId: 0, blockElements: 1, blockBytes: 4 },
  F16: { ggufId: 1, blockElements: 1, blockBytes: 2 },
  BF16: { ggufId: 30, blockElements: 1, blockBytes: 2 },
  Q4_0: { ggufId: 2, blockElements: 32, blockBytes: 18 },
  Q4_1: { ggufId: 3, blockElements: 32, blockBytes: 20 },
  Q5_0: { ggufId: 6, blockElements: 32, blockBytes: 22 },
  Q5_1: { ggufId: 7, blockElements: 32, blockBytes: 24 },
  Q8_0: { ggufId: 8, blockElements: 32, blockBytes: 34 },
  Q2_K: { ggufId: 10, blockElements: 256, blockBytes: 84 },
  Q3_K: { ggufId: 11, blockElements: 256, blockBytes: 110 },
  Q4_K: { ggufId: 12, blockElements: 256, blockBytes: 144 },
  Q5_K: { ggufId: 13, blockElements: 256, blockBytes: 176 },
  Q6_K: { ggufId: 14, blockElements: 256, blockBytes: 210 },
  IQ4_NL: { ggufId: 20, blockElements: 32, blockBytes: 18 },
  IQ4_XS: { ggufId: 23, blockElements: 256, blockBytes: 136 },
} as const satisfies Record<TensorType, Layout>;

/** Bytes of one row of `columns` values. Throws BAD_SHAPE where a row is not a whole number of blocks. */
export function rowBytes(type: TensorType, columns: number): number {
  const { blockElements, blockBytes } = LAYOUTS[type];
  if (!Number.isSafeInteger(columns) || columns < 0 || columns % blockElements !== 0) {
    throw new MillraceError(
      "BAD_SHAPE",
      `A row of ${columns} values cannot be stored as ${type}: expected a multiple of ${blockElements}.`,
      { type, columns, blockElements },
    );
  }
  return (columns / blockElements) * blockBytes;
}

/** Bytes of a tensor, `shape` outermost first. Throws BAD_SHAPE as `rowBytes`, or past 2^53 bytes. */
export function tensorBytes(type: TensorType, shape: readonly number[]): number {
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const bytes = rows * rowBytes(type, shape.at(-1) ?? 1);
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw new MillraceError("BAD_SHAPE", `A tensor of shape [${shape}] as ${type} is too large to address.`, {
      type,
      shape,
    });
  }
  return bytes;
}
