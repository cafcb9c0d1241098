import { keep, maximum, type Truncation } from "./candidates.js";

/**
 * Keeps the candidates whose probability is at least `p` times that of the most probable one.
 * Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling" (2024).
 */
export function minP(p: number): Truncation {
  return (candidates) => {
    const { logits, count } = candidates;
    const least = maximum(logits, count) + Math.log(p);
    keep(candidates, (place) => logits[place]! >= least);
  };
}
