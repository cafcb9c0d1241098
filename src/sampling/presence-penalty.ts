import type { LogitStep } from "./candidates.js";

/** Takes `penalty` once from the logit of every token in the window. */
export function presencePenalty(penalty: number): LogitStep {
  return (logits, window) => {
    for (const id of window.keys()) logits[id] = logits[id]! - penalty;
  };
}
