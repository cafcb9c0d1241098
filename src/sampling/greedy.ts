import { badLogit, badLogits } from "./candidates.js";

/** Id of the largest of `logits` [V]; the lowest id where several are equal. One pass. Throws BAD_LOGITS. */
export function greedy(logits: Float32Array): number {
  let best = -Infinity;
  let id = -1;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i]!;
    if (x <= best) continue;
    if (Number.isNaN(x)) badLogit(x, i);
    best = x;
    id = i;
  }
  if (best === Infinity) badLogit(best, id);
  if (id < 0) badLogits("every logit is -Infinity");
  return id;
}
