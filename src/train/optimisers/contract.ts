/**
 * An optimiser turns gradients (or, without any, losses) into new weights. One file each, found by name in resolve.ts.
 *
 * State is what a later step needs of earlier ones: a list of named arrays, counted to the byte, that a checkpoint
 * holds and a resume writes back. Everything else an optimiser allocates is scratch, whose contents mean nothing
 * between steps.
 */
import type { Matrix, TrainingArithmetic, Values } from "../../backends/training.js";

/** What decides how a parameter is updated: matrices multiply activations, embeddings look up or score tokens. */
export type ParameterKind = "matrix" | "embedding" | "vector";

/** One trained tensor in backend memory. `weight` and `gradient` have the same shape and no gaps between rows. */
export interface Trainable {
  readonly name: string;
  readonly kind: ParameterKind;
  readonly rows: number;
  readonly columns: number;
  /** Matrices of experts that lie one under another in it; default 1. */
  readonly experts?: number;
  readonly weight: Matrix;
  /** Null for optimisers that need none. */
  readonly gradient: Matrix | null;
}

export interface StateArray {
  readonly name: string;
  readonly values: Values;
}

/** What changes from step to step. */
export interface Moment {
  /** Learning rate of this step. */
  readonly rate: number;
  /** 1 for the first. */
  readonly step: number;
}

interface Stateful {
  readonly name: OptimiserName;
  /** Everything that a resumed run needs of this one, in a fixed order. */
  readonly state: readonly StateArray[];
  dispose(): void;
}

export interface GradientOptimiser extends Stateful {
  readonly needs: "gradients";
  /** Records the update of every weight; reads, and may overwrite, the gradients. */
  step(moment: Moment): Promise<void>;
}

export interface LossOptimiser extends Stateful {
  readonly needs: "losses";
  /**
   * Updates every weight from values of `loss`, which it calls with the weights moved this way and that; resolves to
   * the loss in the middle and the slope that it found there. Where that is not finite, the weights are as they were.
   */
  step(moment: Moment, loss: () => Promise<number>): Promise<{ loss: number; slope: number }>;
}

export type Optimiser = GradientOptimiser | LossOptimiser;

export type OptimiserName = "adamw" | "muon" | "apollo" | "apollo-mini" | "mezo";

/** Makes the optimiser of `parameters`, with zeroed state. */
export type CreateOptimiser<Options> = (
  arithmetic: TrainingArithmetic,
  parameters: readonly Trainable[],
  options: Options,
) => Optimiser;

/** Bytes of what a resumed run needs. */
export function stateBytes({ state }: Optimiser, { precision }: TrainingArithmetic): number {
  const width = precision === "f64" ? 8 : 4;
  return state.reduce((sum, { values }) => sum + values.length * width, 0);
}

/** `values` as a matrix without gaps. */
export function asMatrix(values: Values, rows: number, columns: number, at = 0): Matrix {
  return { values, at, rows, columns, stride: columns };
}

/** The gradient of `parameter`, which an optimiser that needs gradients must have been given. */
export function gradientOf({ name, gradient }: Trainable): Matrix {
  if (gradient === null) throw new Error(`Parameter "${name}" has no gradient.`);
  return gradient;
}
