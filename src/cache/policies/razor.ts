import { MillraceError } from "../../errors.js";
import type { CachePolicy, Lane, PolicyOfLane } from "../contract.js";
import { type CompensatedOptions, compensated } from "./compensated.js";
import { full } from "./full.js";
import { numberWithin } from "./options.js";

/** How much the kv heads of a model retrieve, [layer][head]: see `measureHeads` of the engine. */
export interface HeadScores {
  /** Attention to earlier copies of the query's own token. */
  readonly echo: readonly (readonly number[])[];
  /** Attention to the tokens that followed those copies. */
  readonly induction: readonly (readonly number[])[];
}

export interface RazorOptions extends CompensatedOptions {
  /** Share of the heads that keep everything for their echo score. Default 0.01, rounded up to whole heads. */
  readonly echo?: number;
  /** Share of the heads that do for their induction score. Default 0.14, likewise. */
  readonly induction?: number;
}

/**
 * Heads that retrieve keep everything; all others the first tokens, a window and a token that stands for the rest
 * (`compensated`). "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads" (arXiv 2407.15891): heads
 * retrieve that attend, over a repeated random text, to earlier copies of their token or to what followed them.
 *
 * Throws INVALID_ARGUMENT for options out of range and, once a lane is asked for, without `scores` of the model.
 */
export function razor(options: RazorOptions, scores: HeadScores | null): PolicyOfLane {
  const { echo = 0.01, induction = 0.14, ...kept } = options;
  numberWithin("A razor policy's echo", echo, 0, 1);
  numberWithin("A razor policy's induction", induction, 0, 1);
  const others = compensated(kept);
  const retrieving = scores && new Set([...top(scores.echo, echo), ...top(scores.induction, induction)]);
  return (lane: Lane): CachePolicy => {
    if (retrieving) return retrieving.has(nameOf(lane)) ? full() : others;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "The razor policy must know which heads of the model retrieve, and no head scores are at hand. They are measured " +
        "once, when the model is opened with this policy, or by `millrace heads MODEL`.",
    );
  };
}

const nameOf = ({ layer, head }: Lane): string => `${layer}.${head}`;

/** Lanes with the highest scores, `share` of them. */
function top(scores: readonly (readonly number[])[], share: number): string[] {
  const lanes = scores.flatMap((heads, layer) =>
    heads.map((score, head) => ({ name: nameOf({ layer, head }), score })),
  );
  const count = Math.ceil(share * lanes.length - 1e-9);
  return lanes
    .sort((a, b) => b.score - a.score)
    .slice(0, count)
    .map(({ name }) => name);
}
