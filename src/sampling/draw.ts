import { type Candidates, softmax } from "./candidates.js";

/**
 * Id of one candidate, drawn with its softmax probability by inverting the cumulative sum in ascending order of id at
 * `uniform` in [0, 1). Fills `probabilities`. Throws BAD_LOGITS.
 */
export function draw(candidates: Candidates, uniform: number): number {
  softmax(candidates);
  const { count, ids, probabilities } = candidates;
  let sum = 0;
  let last = 0;
  for (let i = 0; i < count; i++) {
    const p = probabilities[i]!;
    if (p === 0) continue;
    sum += p;
    last = i;
    if (uniform < sum) break;
  }
  // Rounding may leave the whole sum a hair below 1; then the last possible token is the drawn one.
  return ids[last]!;
}
