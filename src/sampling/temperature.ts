import { type Candidates, maximum } from "./candidates.js";

/**
 * Divides the logits by `temperature` (above 0): below 1 sharpens, above 1 flattens. The largest logit is subtracted
 * first, so that no temperature, however small, can overflow.
 */
export function temperature(temperature: number): (candidates: Candidates) => void {
  return (candidates) => {
    const { count, logits } = candidates;
    const top = maximum(logits, count);
    for (let i = 0; i < count; i++) {
      const below = logits[i]! - top;
      logits[i] = below === 0 ? 0 : below / temperature;
    }
  };
}
