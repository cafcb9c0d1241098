/**
 * Kinds of adapters, one file each, found by name in resolve.ts. A kind puts a small trained change beside a frozen
 * matrix; whatever it trains, the change is of low rank (models/low-rank.ts), which is how it is saved, merged and
 * applied.
 */
import type { Matrix, TrainingArithmetic } from "../../backends/training.js";
import type { LowRank } from "../../models/low-rank.js";
import type { Adapter } from "../adapter.js";
import type { Parameter } from "../parameters.js";

export type AdapterKind = "lora" | "paca";

/** A whole stored matrix, which may be several matrices of the tape fused. */
export interface AdapterTarget {
  readonly tensor: string;
  readonly rows: number;
  readonly columns: number;
}

export interface AdapterSettings {
  /** How many directions (or columns) of a matrix change; at most its columns. */
  readonly rank: number;
  /** LoRA's factor: changes count alpha / rank times. */
  readonly alpha: number;
  readonly seed: number;
  /** Whether gradients are allocated. */
  readonly gradients: boolean;
}

/** The adapter of one stored matrix. */
export interface AdaptedTensor {
  readonly parameters: readonly Parameter[];
  /** The adapter of rows rowStart .. rowStart + rows - 1. */
  part(rowStart: number, rows: number): Adapter;
  /** The change that it makes where its parameters, by name, have these values. */
  lowRank(weights: ReadonlyMap<string, Float32Array>): LowRank;
  free(): void;
}

/** Allocates an adapter, which at first changes nothing. Throws OUT_OF_BUDGET. */
export type CreateAdapter = (
  arithmetic: TrainingArithmetic,
  target: AdapterTarget,
  settings: AdapterSettings,
) => Promise<AdaptedTensor>;

/** Rows `first` .. `first + count - 1`. */
export const rowsOf = ({ values, at, columns, stride }: Matrix, first: number, count: number): Matrix => ({
  values,
  at: at + first * stride,
  rows: count,
  columns,
  stride,
});

/** Columns `first` .. `first + count - 1`. */
export const columnsOf = ({ values, at, rows, stride }: Matrix, first: number, count: number): Matrix => ({
  values,
  at: at + first,
  rows,
  columns: count,
  stride,
});
