/**
 * Embedding: one vector for a whole text, of the states that the model's output matrix would read. Nothing is sampled and
 * no logits are made.
 */
import { MillraceError } from "../errors.js";
import type { Pooling } from "../models/contract.js";
import type { Decoder } from "./contract.js";

export interface EmbedderOptions {
  /** Tokens of the request's prompt. */
  readonly numTokens: number;
  /** "cls" is "last" of a prompt of one token: no later one changes the first one's state. */
  readonly pooling: Exclude<Pooling, "cls">;
  /** Elements of a state, E. */
  readonly width: number;
  /** Elements of the vector: the first so many of the pooled state. */
  readonly dimensions: number;
  /** Scale the vector to length 1. */
  readonly normalize: boolean;
}

export interface Embedder extends Decoder {
  /** [dimensions]; once the request has ended with "length". */
  vector(): Float32Array;
}

/** For one request; sums are in double precision. `accept` throws BAD_LOGITS for states that hold NaN or infinity. */
export function createEmbedder(options: EmbedderOptions): Embedder {
  const { numTokens, pooling, width, dimensions, normalize } = options;
  const numRows = pooling === "mean" ? numTokens : 1;
  const sum = new Float64Array(width);
  let row = 0;
  return {
    reads: "states",
    outputs: pooling === "mean" ? "all" : "last",
    accept(state) {
      for (let i = 0; i < width; i++) sum[i]! += state[i]!;
      if (!sum.every(Number.isFinite)) {
        const message = `State ${row} of the text holds NaN or infinity, so no embedding can be made of it.`;
        throw new MillraceError("BAD_LOGITS", message, { row });
      }
      row++;
      return { next: null, emission: null, finish: row === numRows ? "length" : null };
    },
    flush: () => null,
    vector() {
      const pooled = sum.subarray(0, dimensions);
      const length = normalize ? Math.hypot(...pooled) : numRows;
      // A vector of zeros has no direction.
      return Float32Array.from(pooled, (element) => element / (length || 1));
    },
  };
}
