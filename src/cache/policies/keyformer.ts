import type { Tempered } from "../../backends/contract.js";
import { blockOf } from "../blocks.js";
import type { CachePolicy, Scope } from "../contract.js";
import { PLACEMENTS, type Placement } from "./contiguous.js";
import { heavyHitters } from "./h2o.js";
import { checkScope, numberWithin, oneOf, wholeNumber } from "./options.js";

export interface KeyformerOptions {
  /** Most older tokens that are kept for their score. */
  readonly heavy: number;
  /** Most of the newest tokens, which are kept whatever they score. */
  readonly recent: number;
  /** How much Gumbel noise is added to the attention scores. Default 1, the distribution as it is; 0: none. */
  readonly noise?: number;
  /** What scores are divided by at first. Default 1. */
  readonly temperature?: number;
  /** How much it grows with every token once tokens go. Default 0.01. */
  readonly warming?: number;
  /** Where it stops growing. Default 2, or `temperature` where that is more. */
  readonly maxTemperature?: number;
  /** Start of the noise, an int32. Default 0. */
  readonly seed?: number;
  /** Which lanes decide together. Default "head": each alone. */
  readonly per?: Scope;
  /** Where kept tokens count as standing: where they stood, or one after another, for streams without end. Default "original". */
  readonly positions?: Placement;
}

/**
 * As h2o, by a score that allows for the tokens already gone: the attention that a token would have received from a
 * softmax with Gumbel noise and a rising temperature, summed over all queries. "Keyformer: KV Cache Reduction through
 * Key Tokens Selection for Efficient Generative Inference" (arXiv 2403.09054). The noise depends on seed, lane, head
 * and positions alone, so that a run can be repeated.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function keyformer(options: KeyformerOptions): CachePolicy {
  const { heavy, recent, noise = 1, temperature = 1, warming = 0.01, seed = 0, per = "head" } = options;
  const { positions = "original" } = options;
  const { maxTemperature = Math.max(2, temperature) } = options;
  wholeNumber("A keyformer policy's heavy", heavy, 1);
  wholeNumber("A keyformer policy's recent", recent, 1);
  numberWithin("A keyformer policy's noise", noise, 0, 100);
  numberWithin("A keyformer policy's temperature", temperature, 0.01, 100);
  numberWithin("A keyformer policy's warming", warming, 0, 100);
  numberWithin("A keyformer policy's maxTemperature", maxTemperature, temperature, 100);
  wholeNumber("A keyformer policy's seed", seed, -(2 ** 31), 2 ** 31 - 1);
  checkScope("A keyformer policy's per", per);
  oneOf("A keyformer policy's positions", positions, PLACEMENTS);
  const block = blockOf(recent);
  const tempered = (seen: number): Tempered => {
    // The same for all steps of a block, however it is cut.
    const sinceFull = Math.max(0, seen - (seen % block) - heavy - recent);
    return { temperature: Math.min(maxTemperature, temperature + warming * sinceFull), noise, seed };
  };
  const shown = { heavy, recent, noise, temperature, warming, maxTemperature, seed, per };
  const id = `keyformer(${Object.entries(shown)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ")})`;
  return heavyHitters({ id, heavy, recent, weigh: "sum", per, positions, mass: { tempered } });
}
