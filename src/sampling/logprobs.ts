import { maximum } from "./candidates.js";
import { expNegative } from "./exp.js";
import { topPlaces } from "./select.js";

/** Log-softmax, token by token: `of(id)` is the natural logarithm of a token's probability. */
export interface Logprobs {
  of(id: number): number;
  /** The `n` most probable tokens, best first, ties by lower id. */
  top(n: number): { id: number; logprob: number }[];
}

/** Reads `logits` [V] as they are now and at later calls; `places` [V] is work. Throws BAD_LOGITS. */
export function logprobs(logits: Float32Array, places: Int32Array): Logprobs {
  const top = maximum(logits, logits.length);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += expNegative(logits[i]! - top);
  const log = top + Math.log(sum);
  const of = (id: number) => logits[id]! - log;
  return {
    of,
    top: (n) => Array.from(topPlaces(logits, logits.length, n, places), (id) => ({ id, logprob: of(id) })),
  };
}
