import { keepPlaces, softmax, type Truncation } from "./candidates.js";
import { selectMass } from "./select.js";

/**
 * Keeps the fewest most probable candidates whose probabilities sum to at least `p`; of equals, those of lower id
 * first. Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
 */
export function topP(p: number): Truncation {
  return (candidates) => {
    if (p >= 1) return;
    softmax(candidates);
    const { count, probabilities, places } = candidates;
    // All candidates below this share sum to less than 1 - p (by half, against rounding): those above hold p.
    const least = (1 - p) / (2 * count);
    let above = 0;
    for (let i = 0; i < count; i++) if (probabilities[i]! >= least) places[above++] = i;
    const selected = selectMass(probabilities, probabilities, places, above, p);
    keepPlaces(candidates, places.subarray(0, selected));
  };
}
