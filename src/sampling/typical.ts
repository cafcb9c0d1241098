import { keep, softmax, type Truncation } from "./candidates.js";
import { cutoffPlace, reaches } from "./select.js";

/**
 * Keeps the candidates whose information -log p is nearest to the distribution's entropy, the nearest first, until
 * their probabilities sum to at least `p`. Source: Meister et al., "Locally Typical Sampling" (2023).
 */
export function typical(p: number): Truncation {
  return (candidates) => {
    if (p >= 1) return;
    softmax(candidates);
    const { count, probabilities, keys, places } = candidates;
    let entropy = 0;
    for (let i = 0; i < count; i++) {
      const q = probabilities[i]!;
      if (q > 0) entropy -= q * Math.log(q);
    }
    for (let i = 0; i < count; i++) keys[i] = -Math.abs(Math.log(probabilities[i]!) + entropy);
    const cutoff = cutoffPlace(keys, probabilities, count, p, places);
    keep(candidates, (place) => reaches(keys, place, cutoff));
  };
}
