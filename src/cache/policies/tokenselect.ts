import { choosing } from "../choosing.js";
import type { CachePolicy } from "../contract.js";
import { NEVER } from "../table/measures.js";
import { numberWithin, oneOf, wholeNumber } from "./options.js";

export interface TokenSelectOptions {
  /** Tokens that are attended for what they are worth to the query. */
  readonly tokens: number;
  /** First tokens of the stream, always attended. Default 128. */
  readonly init?: number;
  /** Newest tokens, always attended. Default 512. */
  readonly local?: number;
  /**
   * A query that is like the last one which chose, by at least this cosine, attends to what that one chose and to what
   * came since. Default 0.9.
   */
  readonly similar?: number;
  /** Which lanes choose together, by adding up what their heads would attend to. Default "layer". */
  readonly per?: "layer" | "head";
}

/**
 * Keeps every token, and attends to the first, the newest, and those between that the heads of a layer vote for: each
 * query scores all keys, and the sum of the heads' probabilities chooses. "TokenSelect: Efficient Long-Context Inference
 * and Length Extrapolation for LLMs via Dynamic Token-Level KV Cache Selection" (arXiv 2411.02886), its Selection Cache
 * included. The paper lets the mean query of a chunk of a prompt choose for all of the chunk; here each query chooses
 * for itself, so that how a prompt is cut makes no difference. Its scores are of keys as they were before they were
 * rotated, and what it attends to closes ranks; here both are those of attention itself, at original positions.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function tokenselect(options: TokenSelectOptions): CachePolicy {
  const { tokens, init = 128, local = 512, similar = 0.9, per = "layer" } = options;
  wholeNumber("A tokenselect policy's tokens", tokens, 1);
  wholeNumber("A tokenselect policy's init", init, 0);
  wholeNumber("A tokenselect policy's local", local, 1);
  numberWithin("A tokenselect policy's similar", similar, -1, 1);
  oneOf("A tokenselect policy's per", per, ["layer", "head"]);
  return choosing({
    id: `tokenselect(tokens=${tokens}, init=${init}, local=${local}, similar=${similar}, per=${per})`,
    per,
    rule: {
      tokens: init + tokens + local,
      first: init,
      newest: local,
      stride: NEVER,
      every: 1,
      similar,
      reach: 0,
      wholly: false,
    },
  });
}
