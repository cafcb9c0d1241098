import type { PolicyOfLane } from "../contract.js";
import { type CompensatedOptions, compensated } from "./compensated.js";
import { numberWithin } from "./options.js";
import { type HeadScores, ranked, shareOf, splitHeads } from "./split.js";

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
  return splitHeads(
    scores && [...top(scores.echo, echo), ...top(scores.induction, induction)],
    compensated(kept),
    "The razor policy must know which heads of the model retrieve, and no head scores are at hand. They are measured " +
      "once, when the model is opened with this policy, or by `millrace heads MODEL`.",
  );
}

/** Lanes with the highest scores, `share` of them. */
function top(scores: readonly (readonly number[])[], share: number) {
  const lanes = ranked(scores);
  return lanes.slice(0, shareOf(share, lanes));
}
