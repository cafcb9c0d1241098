import { keep, type Truncation } from "./candidates.js";
import { reaches, topPlaces } from "./select.js";

/** Keeps the `k` most probable candidates; of equals, those of lower id. Source: Fan et al. (2018). */
export function topK(k: number): Truncation {
  return (candidates) => {
    if (k >= candidates.count) return;
    const { logits, keys, places } = candidates;
    keys.set(logits.subarray(0, candidates.count));
    const cutoff = topPlaces(keys, candidates.count, k, places)[k - 1]!;
    keep(candidates, (place) => reaches(keys, place, cutoff));
  };
}
