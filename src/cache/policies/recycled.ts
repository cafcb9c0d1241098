import { choosing } from "../choosing.js";
import type { CachePolicy } from "../contract.js";
import { numberWithin, oneOf, wholeNumber } from "./options.js";

export interface RecycledOptions {
  /** Most tokens that are attended between two full steps, beside those stored since the last. */
  readonly tokens: number;
  /** A token of every so many attends to everything, if none of those before it did. Default 50. */
  readonly stride?: number;
  /**
   * So does one whose query is less like that of the last one which did: the least cosine of the two. -1 leaves it at
   * `stride`. Default 0.85.
   */
  readonly similar?: number;
  /** A query of every so many is compared. Default 10. */
  readonly every?: number;
  /** Neighbours over which scores are pooled by their maximum, an odd number. Default 7. */
  readonly kernel?: number;
  /** First tokens of the stream, always attended; part of `tokens`. Default 4. */
  readonly sinks?: number;
  /** Which lanes choose together. Default "head": each alone. */
  readonly per?: "layer" | "head";
}

/**
 * Keeps every token, and attends to all of them only in full steps: once in `stride` tokens, and when queries have
 * turned away from that of the last full step. In between it attends to the tokens to which the last full step attended
 * most, and to those that came since. Memory grows with the stream; the time of most steps hardly does. "Recycled
 * Attention: Efficient inference for long-context language models" (arXiv 2411.05787), later RefreshKV. Prompts are read
 * the same way, where the paper reads them densely: so how they are cut makes no difference.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function recycled(options: RecycledOptions): CachePolicy {
  const { tokens, stride = 50, similar = 0.85, every = 10, kernel = 7, sinks = 4, per = "head" } = options;
  wholeNumber("A recycled policy's tokens", tokens, 1);
  wholeNumber("A recycled policy's stride", stride, 1);
  numberWithin("A recycled policy's similar", similar, -1, 1);
  wholeNumber("A recycled policy's every", every, 1);
  wholeNumber("A recycled policy's kernel", kernel, 1);
  wholeNumber("A recycled policy's sinks", sinks, 0, tokens);
  oneOf("A recycled policy's per", per, ["layer", "head"]);
  const id =
    `recycled(tokens=${tokens}, stride=${stride}, similar=${similar}, every=${every}, kernel=${kernel}, ` +
    `sinks=${sinks}, per=${per})`;
  const reach = Math.floor(kernel / 2);
  return choosing({
    id,
    per,
    rule: { tokens, first: sinks, newest: 0, stride, every, similar, reach, wholly: true },
  });
}
