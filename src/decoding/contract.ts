/**
 * A decoder turns one request's logits into its next tokens and says when the request is done. It owns everything
 * that belongs to the request and not to the model: sampler, stop conditions, text so far. It knows nothing of
 * batches, caches or other requests.
 */
import type { TokenLogprob } from "../sampling/sampler.js";

/**
 * Why a request ended without an error.
 *   "stop"         the model gave one of its end tokens
 *   "stop-string"  one of the caller's stop strings appeared
 *   "length"       maxTokens were generated
 *   "cache-full"   the context, or what the cache can hold of it, is used up
 *   "deadline"     the time that the caller allowed is over
 *   "aborted"      the caller stopped listening or gave a signal
 */
export type FinishReason = "stop" | "stop-string" | "length" | "cache-full" | "deadline" | "aborted";

/** Log-probability of a generated token under the model's raw logits, with the most probable tokens beside it. */
export interface TokenScore {
  readonly id: number;
  /** Natural logarithm. */
  readonly logprob: number;
  /** Best first; empty unless alternatives were asked for. */
  readonly top: readonly TokenLogprob[];
}

/** Text that is ready, with the tokens that it came from. Arrays are of one length; `scores` only where asked for. */
export interface Emission {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly scores?: readonly TokenScore[];
}

/** What follows from one row of logits. */
export interface Turn {
  /** The token to run next, or null where the request is done (`finish` is set) or only listens (scoring). */
  readonly next: number | null;
  readonly emission: Emission | null;
  readonly finish: FinishReason | null;
}

export interface Decoder {
  /** What it is given: logits [V], or with "states" what the output matrix would read, [E]. Absent: logits. */
  readonly reads?: "logits" | "states";
  /** Which of the request's tokens must give a row: its last pending one, or all. */
  readonly outputs: "last" | "all";
  /**
   * Takes one row of what it reads, in the order of the tokens. The row is read during the call only.
   * Throws BAD_LOGITS where no token can be chosen.
   */
  accept(row: Float32Array): Turn;
  /** What was held back so far (half a character, the start of a stop string); called once where the end comes from outside. */
  flush(): Emission | null;
}
