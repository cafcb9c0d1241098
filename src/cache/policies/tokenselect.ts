import type { CachePolicy, Scope } from "../contract.js";
import { pooledMass, selecting } from "../select.js";
import { checkScope, wholeNumber } from "./options.js";

export interface TokenSelectOptions {
  /** Tokens that are attended for what they are worth now. */
  readonly tokens: number;
  /** First tokens of the stream, always attended. Default 128. */
  readonly init?: number;
  /** Newest tokens, always attended. Default 512. */
  readonly local?: number;
  /** A token of every so many attends to everything, and chooses for those that follow. Default 16. */
  readonly stride?: number;
  /** Which lanes choose together, by adding up what their heads attend to. Default "layer". */
  readonly per?: Scope;
}

/**
 * Keeps every token, and attends to the first, the newest, and those between that the heads of a layer vote for by
 * their attention. "TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic
 * Token-Level KV Cache Selection" (arXiv 2411.02886). The paper votes anew whenever the query has turned enough, by a
 * pass over all keys; here every `stride` tokens, by a step that attends to everything. Positions stay the original
 * ones.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function tokenselect(options: TokenSelectOptions): CachePolicy {
  const { tokens, init = 128, local = 512, stride = 16, per = "layer" } = options;
  wholeNumber("A tokenselect policy's tokens", tokens, 1);
  wholeNumber("A tokenselect policy's init", init, 0);
  wholeNumber("A tokenselect policy's local", local, 1);
  wholeNumber("A tokenselect policy's stride", stride, 1);
  checkScope("A tokenselect policy's per", per);
  return selecting({
    id: `tokenselect(tokens=${tokens}, init=${init}, local=${local}, stride=${stride}, per=${per})`,
    per,
    stride,
    tokens: init + tokens + local,
    worth: (view, slots) =>
      pooledMass(view, slots, 0)
        .fill(Number.POSITIVE_INFINITY, 0, init)
        .fill(Number.POSITIVE_INFINITY, Math.max(0, slots.length - local)),
  });
}
