import { maximum, type Truncation } from "./candidates.js";

/**
 * Keeps the candidates whose probability is at least `p` times that of the most probable one.
 * Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling" (2024).
 */
export function minP(p: number): Truncation {
  return (candidates) => {
    const { logits, ids, keptIds, temperature } = candidates;
    const least = maximum(logits, candidates.count) + temperature * Math.log(p);
    let count = 0;
    for (let i = 0; i < candidates.count; i++) {
      if (logits[i]! < least) continue;
      keptIds[count] = ids[i]!;
      logits[count++] = logits[i]!;
    }
    candidates.ids = keptIds;
    candidates.count = count;
  };
}
