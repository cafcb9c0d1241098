/**
 * AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101). Two numbers of state per weight.
 */
import type { Matrix, TrainingArithmetic } from "../../backends/training.js";
import {
  asMatrix,
  type GradientOptimiser,
  gradientOf,
  type Moment,
  type StateArray,
  type Trainable,
} from "./contract.js";

export interface AdamWOptions {
  /** Share of the running mean of gradients that a step keeps. Default 0.9. */
  readonly beta1?: number;
  /** Likewise of their squares. Default 0.95. */
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly epsilon?: number;
  /** Share of a weight that a step at rate 1 takes off; vectors (norms, biases) never decay. Default 0.1. */
  readonly decay?: number;
}

export const ADAMW_DEFAULTS = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1 } as const;

interface Moments {
  readonly parameter: Trainable;
  readonly m: Matrix;
  readonly v: Matrix;
}

export class AdamW implements GradientOptimiser {
  readonly name = "adamw";
  readonly needs = "gradients";
  readonly state: readonly StateArray[];
  readonly #arithmetic: TrainingArithmetic;
  readonly #moments: readonly Moments[];
  readonly #options: Required<AdamWOptions>;

  constructor(arithmetic: TrainingArithmetic, parameters: readonly Trainable[], options: AdamWOptions = {}) {
    this.#arithmetic = arithmetic;
    this.#options = { ...ADAMW_DEFAULTS, ...options };
    this.#moments = parameters.map((parameter) => {
      const { rows, columns } = parameter;
      const zeros = () => asMatrix(arithmetic.allocate(rows * columns), rows, columns);
      return { parameter, m: zeros(), v: zeros() };
    });
    this.state = this.#moments.flatMap(({ parameter, m, v }) => [
      { name: `${parameter.name}.m`, values: m.values },
      { name: `${parameter.name}.v`, values: v.values },
    ]);
  }

  async step({ rate, step }: Moment): Promise<void> {
    for (const { parameter, m, v } of this.#moments) {
      const decay = parameter.kind === "vector" ? 0 : this.#options.decay;
      this.#arithmetic.adamW(parameter.weight, gradientOf(parameter), m, v, {
        ...this.#options,
        rate,
        decay,
        step,
      });
    }
  }

  dispose(): void {
    for (const { values } of this.state) values.free();
  }
}
