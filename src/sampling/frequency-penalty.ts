import type { LogitStep } from "./candidates.js";

/** Takes `penalty` from a token's logit for every time that it stands in the window. */
export function frequencyPenalty(penalty: number): LogitStep {
  return (logits, window) => {
    for (const [id, count] of window) logits[id] = logits[id]! - penalty * count;
  };
}
