import { MillraceError } from "../errors.js";
import { type CachePolicy, type LaneView, NOTHING, type Plan } from "./contract.js";

/** A policy that only says what each token is worth. */
export interface ScoredPolicy {
  /** As CachePolicy.id. */
  readonly id: string;
  /** Most tokens that a lane holds. */
  readonly tokens: number;
  readonly sinks?: number;
  readonly mass?: boolean;
  /** Most tokens of one step once the budget is full. Default: a quarter of `tokens`. */
  readonly step?: number;
  /** Worth of the token in each slot, [slots]; what stands in empty slots does not matter. */
  score(view: LaneView): Float32Array;
}

/** Makes a policy of a score: when the budget is full, the tokens worth least go. */
export function byScore(scored: ScoredPolicy): CachePolicy {
  const { id, tokens, sinks = 0, mass = false, step = Math.ceil(tokens / 4) } = scored;
  return {
    id,
    sinks,
    mass,
    capacity: (demand) => Math.min(tokens, demand.tokens),
    maxIncoming: (length) => Math.max(tokens - length, step),
    plan: (view) =>
      view.length + view.incoming > tokens ? keepHighest(scored.score(view), view, tokens) : NOTHING,
  };
}

/**
 * The plan that leaves, beside the incoming tokens, the `budget - incoming` tokens worth most. Of tokens worth the
 * same the newer stay. Takes O(length), and O(n log n) in the n tokens held where more than one goes. Throws INTERNAL
 * for a score that is NaN or has another length than there are slots.
 */
export function keepHighest(score: Float32Array, view: LaneView, budget = view.budget): Plan {
  if (score.length !== view.positions.length) {
    throw new MillraceError(
      "INTERNAL",
      `A score of ${score.length} slots where there are ${view.positions.length}.`,
    );
  }
  const excess = Math.min(view.length, view.length + view.incoming - budget);
  if (excess <= 0) return NOTHING;
  const slots = [...view.oldest()];
  for (const slot of slots) {
    if (Number.isNaN(score[slot]))
      throw new MillraceError("INTERNAL", `The score of slot ${slot} is NaN.`, { slot });
  }
  if (excess === 1) {
    let least = slots[0]!;
    for (const slot of slots) if (score[slot]! < score[least]!) least = slot;
    return [{ kind: "drop", slots: [least] }];
  }
  // Sorting is stable, so equal scores stay oldest first.
  slots.sort((a, b) => score[a]! - score[b]!);
  return [{ kind: "drop", slots: slots.slice(0, excess) }];
}
