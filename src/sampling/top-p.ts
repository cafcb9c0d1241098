import { keep, softmax, type Truncation } from "./candidates.js";
import { cutoffPlace, reaches } from "./select.js";

/**
 * Keeps the fewest most probable candidates whose probabilities sum to at least `p`; of equals, those of lower id
 * first. Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
 */
export function topP(p: number): Truncation {
  return (candidates) => {
    if (p >= 1) return;
    softmax(candidates);
    const { count, probabilities, keys, places } = candidates;
    keys.set(probabilities.subarray(0, count));
    const cutoff = cutoffPlace(keys, probabilities, count, p, places);
    keep(candidates, (place) => reaches(keys, place, cutoff));
  };
}
