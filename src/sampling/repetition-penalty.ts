import type { LogitStep } from "./candidates.js";

/**
 * Divides the positive logits of tokens in the window by `penalty` and multiplies the others, so that a penalty above
 * 1 makes them less likely. Source: Keskar et al., "CTRL" (2019), section 4.1, with the sign mended as is usual.
 */
export function repetitionPenalty(penalty: number): LogitStep {
  return (logits, window) => {
    for (const id of window.keys()) {
      const logit = logits[id]!;
      logits[id] = logit > 0 ? logit / penalty : logit * penalty;
    }
  };
}
