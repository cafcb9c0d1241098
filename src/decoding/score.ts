/**
 * Scoring: what the model would have given to tokens that are known already. Nothing is sampled; the tokens run as a
 * prompt whose every row gives logits.
 */
import type { Decoder } from "./contract.js";

export interface Scorer extends Decoder {
  /** [n - 1] natural-log probability of `tokens[i + 1]` given tokens 0 .. i; NaN for those not reached. */
  readonly logprobs: Float32Array;
}

/** For the request whose prompt is `tokens[0 .. n - 2]`; `tokens` has at least 2. */
export function createScorer(tokens: Int32Array): Scorer {
  const logprobs = new Float32Array(tokens.length - 1).fill(Number.NaN);
  let row = 0;
  return {
    outputs: "all",
    logprobs,
    accept(logits) {
      logprobs[row] = logProbability(logits, tokens[row + 1]!);
      row++;
      return { next: null, emission: null, finish: row === logprobs.length ? "length" : null };
    },
    flush: () => null,
  };
}

/** log softmax(logits)[id], summed in double precision. */
export function logProbability(logits: Float32Array, id: number): number {
  let top = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) if (logits[i]! > top) top = logits[i]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - top);
  return logits[id]! - top - Math.log(sum);
}
