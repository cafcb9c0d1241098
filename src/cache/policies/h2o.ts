import { blockOf } from "../blocks.js";
import type { CachePolicy, LaneView, MassSpec, Scope } from "../contract.js";
import { byScore, protectNewest } from "../score.js";
import { PLACEMENTS, type Placement, placed } from "./contiguous.js";
import { checkScope, oneOf, wholeNumber } from "./options.js";

export interface H2oOptions {
  /** Most older tokens that are kept for the attention they received. */
  readonly heavy: number;
  /** Most of the newest tokens, which are kept whatever they received. */
  readonly recent: number;
  /**
   * How what a token received counts: its "sum" over all queries, as the paper has it, which favours old tokens, or
   * its "mean" over the queries that saw it. Default "mean".
   */
  readonly weigh?: "sum" | "mean";
  /** Which lanes decide together. Default "head": each alone. */
  readonly per?: Scope;
  /** Where kept tokens count as standing: where they stood, or one after another, for streams without end. Default "original". */
  readonly positions?: Placement;
}

/**
 * Keeps the newest tokens and the heavy hitters: those older ones that received the most attention since they were
 * stored. "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language
 * Models" (arXiv 2306.14048).
 *
 * Tokens go in blocks of a quarter of `recent`, so that at least three quarters of it are always held; see `inBlocks`.
 * Throws INVALID_ARGUMENT unless `heavy` and `recent` are whole numbers of at least 1.
 */
export function h2o(options: H2oOptions): CachePolicy {
  const { heavy, recent, weigh = "mean", per = "head", positions = "original" } = options;
  wholeNumber("An h2o policy's heavy", heavy, 1);
  wholeNumber("An h2o policy's recent", recent, 1);
  oneOf("An h2o policy's weigh", weigh, ["sum", "mean"]);
  checkScope("An h2o policy's per", per);
  oneOf("An h2o policy's positions", positions, PLACEMENTS);
  const id = `h2o(heavy=${heavy}, recent=${recent}, weigh=${weigh}, per=${per})`;
  return heavyHitters({ id, heavy, recent, weigh, per, positions, mass: {} });
}

/** Keeps the newest `recent` tokens, and `heavy` of the others by the mass that they received. */
export function heavyHitters(
  options: Required<H2oOptions> & { readonly id: string; readonly mass: MassSpec },
): CachePolicy {
  const { id, heavy, recent, weigh, per, positions, mass } = options;
  const block = blockOf(recent);
  const scored = byScore({
    id,
    tokens: heavy + recent,
    block,
    per,
    mass,
    score(view) {
      const score = view.mass();
      if (weigh === "mean") perQuery(score, view);
      protectNewest(score, view, recent - block);
      return score;
    },
  });
  return placed(scored, positions, block);
}

/** Divides what each token received by the number of queries that saw it, its own included. */
function perQuery(score: Float32Array, view: LaneView): void {
  for (const slot of view.oldest()) score[slot]! /= view.nextPosition - view.positions[slot]!;
}
