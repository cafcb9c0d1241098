import { keepPlaces, maximum, type Truncation } from "./candidates.js";
import { topPlaces } from "./select.js";

/** Keeps the `k` most probable candidates; of equals, those of lower id. Source: Fan et al. (2018). */
export function topK(k: number): Truncation {
  return (candidates) => {
    const { logits, count, places } = candidates;
    if (k >= count) return;
    maximum(logits, count);
    keepPlaces(candidates, topPlaces(logits, count, k, places));
  };
}
