import type { LogitStep } from "./candidates.js";

/** Adds to each token's logit what `bias` (token id -> number) says; -Infinity bans it. */
export function logitBias(bias: Readonly<Record<number, number>>): LogitStep {
  const entries = Object.entries(bias).map(([id, added]) => [Number(id), added] as const);
  return (logits) => {
    for (const [id, added] of entries) logits[id] = logits[id]! + added;
  };
}
