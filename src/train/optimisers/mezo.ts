/**
 * MeZO: training with forward passes only (Malladi et al., "Fine-Tuning Language Models with Just Forward Passes",
 * arXiv 2305.17333). Weights are moved by +epsilon z and -epsilon z, z standard normal; the difference of the two
 * losses is the slope along z, and the weights go down it. z is remade from its seed wherever it is needed: no
 * gradients, no state, no memory beyond inference.
 */
import type { TrainingArithmetic } from "../../backends/training.js";
import { deriveSeed } from "../seeds.js";
import type { LossOptimiser, Moment, StateArray, Trainable } from "./contract.js";

export interface MezoOptions {
  /** How far the weights are moved to either side. Default 1e-3. */
  readonly epsilon?: number;
  /** As AdamW's. Default 0. */
  readonly decay?: number;
  /** Of the noise. Default 0. */
  readonly seed?: number;
}

export const MEZO_DEFAULTS = { epsilon: 1e-3, decay: 0, seed: 0 } as const;

export class Mezo implements LossOptimiser {
  readonly name = "mezo";
  readonly needs = "losses";
  readonly state: readonly StateArray[] = [];
  readonly #arithmetic: TrainingArithmetic;
  readonly #parameters: readonly Trainable[];
  readonly #options: Required<MezoOptions>;

  constructor(arithmetic: TrainingArithmetic, parameters: readonly Trainable[], options: MezoOptions = {}) {
    this.#arithmetic = arithmetic;
    this.#parameters = parameters;
    this.#options = { ...MEZO_DEFAULTS, ...options };
  }

  async step({ rate, step }: Moment, loss: () => Promise<number>): Promise<{ loss: number; slope: number }> {
    const { epsilon, decay } = this.#options;
    this.#move(step, epsilon);
    const above = await loss();
    this.#move(step, -2 * epsilon);
    const below = await loss();
    const slope = (above - below) / (2 * epsilon);
    // Back to where the weights were and down the slope in one move, since each rounds once.
    if (Number.isFinite(slope)) this.#move(step, epsilon - rate * slope, 1 - rate * decay);
    else this.#move(step, epsilon);
    return { loss: (above + below) / 2, slope };
  }

  dispose(): void {}

  /** weights = keep * weights + distance * z, z the noise of this step; vectors are kept whole. */
  #move(step: number, distance: number, keep = 1): void {
    for (const [index, { weight, kind }] of this.#parameters.entries()) {
      const seed = deriveSeed(this.#options.seed, step, index);
      this.#arithmetic.addNormal(weight, seed, distance, kind === "vector" ? 1 : keep);
    }
  }
}
