/** How the learning rate changes over a run, as a pure function of the step. */

/** What follows the warm-up: half a cosine, a line, or a level stretch that ends in a line. */
export type Decay = "cosine" | "linear" | "warmup-stable-decay";

export const DECAYS = ["cosine", "linear", "warmup-stable-decay"] as const satisfies readonly Decay[];

export interface RateSchedule {
  /** The highest rate. */
  readonly rate: number;
  /** Steps over which the rate rises from near 0, in a line. */
  readonly warmup: number;
  readonly decay: Decay;
  /** The last step's share of the highest rate. */
  readonly final: number;
  readonly steps: number;
}

/** Share of the steps in which "warmup-stable-decay" goes down. */
const DECAY_SHARE = 0.2;

/** The rate of `step`, which is 1 for the first and `steps` for the last. */
export function rateAt({ rate, warmup, decay, final, steps }: RateSchedule, step: number): number {
  if (step <= warmup) return (rate * step) / (warmup + 1);
  const start = decay === "warmup-stable-decay" ? Math.max(warmup, steps * (1 - DECAY_SHARE)) : warmup;
  const done = steps > start ? Math.max(0, (step - start) / (steps - start)) : 1;
  const left = decay === "cosine" ? (1 + Math.cos(Math.PI * done)) / 2 : 1 - done;
  return rate * (final + (1 - final) * left);
}
