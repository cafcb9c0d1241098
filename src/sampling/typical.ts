import { keepPlaces, softmax, type Truncation } from "./candidates.js";
import { selectMass } from "./select.js";

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
      const log = Math.log(q);
      if (q > 0) entropy -= q * log;
      keys[i] = log;
      places[i] = i;
    }
    for (let i = 0; i < count; i++) keys[i] = -Math.abs(keys[i]! + entropy);
    const selected = selectMass(keys, probabilities, places, count, p);
    keepPlaces(candidates, places.subarray(0, selected));
  };
}
