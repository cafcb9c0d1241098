import { MillraceError } from "../errors.js";
import { inBlocks } from "./blocks.js";
import {
  type CachePolicy,
  type LaneView,
  type MassSpec,
  NOTHING,
  type Plan,
  type Scope,
} from "./contract.js";

/** A policy that only says what each token is worth. */
export interface ScoredPolicy {
  /** As CachePolicy.id. */
  readonly id: string;
  /** Most tokens that a lane holds. */
  readonly tokens: number;
  readonly per?: Scope;
  readonly sinks?: number;
  readonly mass?: MassSpec;
  /** Tokens that go at a time; as in `inBlocks`, which has the default. */
  readonly block?: number;
  /** Worth of the token in each slot, [slots]; what stands in empty slots does not matter. */
  score(view: LaneView): Float32Array;
}

/** Makes a policy of a score: when the budget is full, the tokens worth least go, a block at a time (`inBlocks`). */
export function byScore(scored: ScoredPolicy): CachePolicy {
  const { id, tokens, per = "model", sinks = 0, mass } = scored;
  const choose = (view: LaneView, excess: number) =>
    keepHighest(scored.score(view), view, view.length - excess);
  const bounded = inBlocks(tokens, choose, scored.block);
  return { id, per, sinks, ...(mass ? { mass } : {}), ...bounded };
}

/** Makes the newest `count` tokens worth more than all others. */
export function protectNewest(score: Float32Array, view: LaneView, count: number): void {
  let left = count;
  for (const slot of view.newest()) {
    if (left-- <= 0) return;
    score[slot] = Number.POSITIVE_INFINITY;
  }
}

/**
 * The plan that leaves the `budget` tokens worth most of those held. Of tokens worth the same the newer stay. Takes
 * O(n log n) in the n tokens held. Throws INTERNAL for a score that is NaN or has another length than there are slots.
 */
export function keepHighest(score: Float32Array, view: LaneView, budget: number): Plan {
  if (score.length !== view.positions.length) {
    throw new MillraceError(
      "INTERNAL",
      `A score of ${score.length} slots where there are ${view.positions.length}.`,
    );
  }
  const excess = Math.min(view.length, view.length - budget);
  if (excess <= 0) return NOTHING;
  const slots = [...view.oldest()];
  for (const slot of slots) {
    if (Number.isNaN(score[slot]))
      throw new MillraceError("INTERNAL", `The score of slot ${slot} is NaN.`, { slot });
  }
  // Sorting is stable, so equal scores stay oldest first.
  slots.sort((a, b) => score[a]! - score[b]!);
  return [{ kind: "drop", slots: slots.slice(0, excess) }];
}
