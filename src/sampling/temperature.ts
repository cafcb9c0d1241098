import type { Candidates } from "./candidates.js";

/** Divides the logits by `temperature` (above 0) when they become probabilities: below 1 sharpens, above 1 flattens. */
export function temperature(temperature: number): (candidates: Candidates) => void {
  return (candidates) => {
    candidates.temperature = temperature;
  };
}
