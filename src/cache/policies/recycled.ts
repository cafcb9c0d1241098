import type { CachePolicy, Scope } from "../contract.js";
import { pooledMass, selecting } from "../select.js";
import { checkScope, wholeNumber } from "./options.js";

export interface RecycledOptions {
  /** Most tokens that are attended between two full steps, beside those stored since the last. */
  readonly tokens: number;
  /** A token of every so many attends to everything. Default 50. */
  readonly stride?: number;
  /** Neighbours over which scores are pooled by their maximum, an odd number. Default 7. */
  readonly kernel?: number;
  /** First tokens of the stream, always attended. Default 4. */
  readonly sinks?: number;
  /** Which lanes choose together. Default "head": each alone. */
  readonly per?: Scope;
}

/**
 * Keeps every token, and attends to all of them only once every `stride` tokens; in between to the tokens that the last
 * full step attended to most, and to those that came since. Memory grows with the stream; the time of most steps does
 * not. "Recycled Attention: Efficient inference for long-context language models" (arXiv 2411.05787). Prompts
 * are read the same way, so that how they are cut makes no difference.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function recycled(options: RecycledOptions): CachePolicy {
  const { tokens, stride = 50, kernel = 7, sinks = 4, per = "head" } = options;
  wholeNumber("A recycled policy's tokens", tokens, 1);
  wholeNumber("A recycled policy's stride", stride, 1);
  wholeNumber("A recycled policy's kernel", kernel, 1);
  wholeNumber("A recycled policy's sinks", sinks, 0, tokens);
  checkScope("A recycled policy's per", per);
  return selecting({
    id: `recycled(tokens=${tokens}, stride=${stride}, kernel=${kernel}, sinks=${sinks}, per=${per})`,
    per,
    stride,
    tokens,
    worth: (view, slots) =>
      pooledMass(view, slots, Math.floor(kernel / 2)).fill(Number.POSITIVE_INFINITY, 0, sinks),
  });
}
