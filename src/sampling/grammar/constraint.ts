import { MillraceError } from "../../errors.js";
import type { LogitStep } from "../candidates.js";

/** What holds one answer to its format, token by token. */
export interface Constraint {
  /**
   * Which tokens may come next: token i where bit i % 32 of word i / 32 is set. Waits until it is known; valid until
   * `accept`. Throws INVALID_ARGUMENT where the format takes too long to follow, INTERNAL where its thread has failed.
   */
  allowed(): Int32Array;
  /** `token`, which was allowed and is no end token, comes next. */
  accept(token: number): void;
  /** The tokens that were accepted, in order. */
  readonly accepted: readonly number[];
  /** Nothing may follow any more, not even an end token, since there is none. */
  ended(): boolean;
  /** Frees what it holds. Idempotent. */
  dispose(): void;
}

/** Takes away every token that `constraint` does not allow. Throws what `Constraint.allowed` throws. */
export function hold(constraint: Constraint): LogitStep {
  return (logits) => {
    const words = constraint.allowed();
    if (words.every((word) => word === 0)) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The answer cannot go on: none of the model's tokens is what its format demands here. Change the format to " +
          "characters that the model's vocabulary can write.",
        { name: "format" },
      );
    }
    for (let i = 0, first = 0; first < logits.length; i++, first += 32) {
      const word = words[i]!;
      if (word === -1) continue;
      const end = Math.min(first + 32, logits.length);
      if (word === 0) logits.fill(Number.NEGATIVE_INFINITY, first, end);
      else {
        for (let id = first; id < end; id++) {
          if (((word >>> (id - first)) & 1) === 0) logits[id] = Number.NEGATIVE_INFINITY;
        }
      }
    }
  };
}
