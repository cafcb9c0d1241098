/**
 * Muon: the momentum of a matrix's gradient, orthogonalised by a Newton-Schulz iteration, so that all directions of
 * the update are equally long (Jordan 2024). Embeddings, the output head and vectors take AdamW. One number of state
 * per weight of a matrix, two per other weight.
 *
 * Updates are scaled by 0.2 sqrt(max(rows, columns)), which gives them the root mean square of AdamW's, so that one
 * rate and decay serve both (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982).
 */
import type { Matrix, TrainingArithmetic, Values } from "../../backends/training.js";
import { AdamW, type AdamWOptions } from "./adamw.js";
import {
  asMatrix,
  type GradientOptimiser,
  gradientOf,
  type Moment,
  type StateArray,
  type Trainable,
} from "./contract.js";

export interface MuonOptions extends AdamWOptions {
  /** Share of the running sum of gradients that a step keeps. Default 0.95. */
  readonly momentum?: number;
}

export const MUON_DEFAULTS = { momentum: 0.95, decay: 0.1 } as const;

/** x -> a x + b x^3 + c x^5, five times over, takes singular values from (0, 1] to about 1 (0.7 to 1.2). */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const ITERATIONS = 5;

/** Keeps a gradient of zeros from being divided by zero; far below the mean square of any other. */
const EPSILON = 1e-30;

interface Momentum {
  readonly parameter: Trainable;
  readonly sum: Matrix;
}

/** The matrices of a tensor: experts' lie one under another, and each has directions of its own. */
function* apart({ rows, columns, experts = 1 }: Trainable, ...all: readonly Matrix[]): Generator<Matrix[]> {
  const height = rows / experts;
  for (let e = 0; e < experts; e++) {
    yield all.map(({ values, at, stride }) => ({
      ...{ values, at: at + e * height * stride },
      ...{ rows: height, columns, stride },
    }));
  }
}

export class Muon implements GradientOptimiser {
  readonly name = "muon";
  readonly needs = "gradients";
  readonly state: readonly StateArray[];
  readonly #arithmetic: TrainingArithmetic;
  readonly #momenta: readonly Momentum[];
  readonly #others: AdamW;
  readonly #scratch: Scratch;
  readonly #momentum: number;
  readonly #decay: number;

  constructor(arithmetic: TrainingArithmetic, parameters: readonly Trainable[], options: MuonOptions = {}) {
    const { momentum = MUON_DEFAULTS.momentum, ...adam } = options;
    this.#arithmetic = arithmetic;
    this.#momentum = momentum;
    this.#decay = adam.decay ?? MUON_DEFAULTS.decay;
    const matrices = parameters.filter(({ kind }) => kind === "matrix");
    this.#momenta = matrices.map((parameter) => {
      const { rows, columns } = parameter;
      return { parameter, sum: asMatrix(arithmetic.allocate(rows * columns), rows, columns) };
    });
    this.#others = new AdamW(
      arithmetic,
      parameters.filter(({ kind }) => kind !== "matrix"),
      adam,
    );
    this.#scratch = createScratch(arithmetic, matrices);
    this.state = [
      ...this.#momenta.map(({ parameter, sum }) => ({
        name: `${parameter.name}.momentum`,
        values: sum.values,
      })),
      ...this.#others.state,
    ];
  }

  async step(moment: Moment): Promise<void> {
    const arithmetic = this.#arithmetic;
    for (const { parameter, sum } of this.#momenta) {
      const gradient = gradientOf(parameter);
      arithmetic.addScaled(gradient, sum, 1, this.#momentum);
      // Nesterov: one step ahead along the momentum.
      arithmetic.addScaled(sum, gradient, this.#momentum, 1);
      for (const [own, weight] of apart(parameter, gradient, parameter.weight) as Iterable<
        [Matrix, Matrix]
      >) {
        const direction = orthogonalise(arithmetic, own, this.#scratch);
        const scale = 0.2 * Math.sqrt(Math.max(weight.rows, weight.columns));
        arithmetic.addScaled(direction, weight, -moment.rate * scale, 1 - moment.rate * this.#decay);
      }
    }
    await this.#others.step(moment);
  }

  dispose(): void {
    for (const { sum } of this.#momenta) sum.values.free();
    this.#others.dispose();
    for (const values of Object.values(this.#scratch)) values.free();
  }
}

/** Room for the largest matrix twice, and for the square of its shorter side twice. */
interface Scratch {
  readonly even: Values;
  readonly odd: Values;
  readonly gram: Values;
  readonly polynomial: Values;
}

/** Scratch for `orthogonalise` of any of `matrices`. */
export function createScratch(
  arithmetic: TrainingArithmetic,
  matrices: readonly { readonly rows: number; readonly columns: number }[],
): Scratch {
  const size = Math.max(1, ...matrices.map(({ rows, columns }) => rows * columns));
  const square = Math.max(1, ...matrices.map(({ rows, columns }) => Math.min(rows, columns) ** 2));
  return {
    even: arithmetic.allocate(size),
    odd: arithmetic.allocate(size),
    gram: arithmetic.allocate(square),
    polynomial: arithmetic.allocate(square),
  };
}

/**
 * About U V^T of the singular value decomposition U S V^T of `x`, by Newton-Schulz on the shorter side. The result
 * lies in `scratch`, valid until its next use; x, which must have no gaps, is unchanged.
 */
export function orthogonalise(arithmetic: TrainingArithmetic, x: Matrix, scratch: Scratch): Matrix {
  const { rows, columns } = x;
  const tall = rows > columns;
  const side = Math.min(rows, columns);
  const gram = asMatrix(scratch.gram, side, side);
  const polynomial = asMatrix(scratch.polynomial, side, side);
  let from = asMatrix(scratch.even, rows, columns);
  let to = asMatrix(scratch.odd, rows, columns);
  // The whole matrix as one row of root mean square 1, then of length 1: its singular values are at most that.
  const size = rows * columns;
  arithmetic.rmsNorm({ ...x, rows: 1, columns: size, stride: size }, null, size, EPSILON, {
    ...to,
    rows: 1,
    columns: size,
    stride: size,
  });
  arithmetic.addScaled(to, from, 1 / Math.sqrt(size), 0);
  for (let i = 0; i < ITERATIONS; i++) {
    // Wide: X <- aX + (b XX^T + c (XX^T)^2) X. Tall: the same of the transpose, with X^T X on the right.
    arithmetic.multiply(from, from, gram, tall ? { transposeA: true } : { transposeB: true });
    arithmetic.addScaled(gram, polynomial, B, 0);
    arithmetic.multiply(gram, gram, polynomial, { alpha: C, accumulate: true });
    arithmetic.addScaled(from, to, A, 0);
    if (tall) arithmetic.multiply(from, polynomial, to, { accumulate: true });
    else arithmetic.multiply(polynomial, from, to, { accumulate: true });
    [from, to] = [to, from];
  }
  return from;
}
