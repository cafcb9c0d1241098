import type { CachePolicy, Plan } from "../contract.js";

/** Where kept tokens count as standing: where they stood in the stream, or one after another. */
export type Placement = "original" | "contiguous";

export const PLACEMENTS: readonly Placement[] = ["original", "contiguous"];

/**
 * Wraps a policy that lets tokens go a block at a time (`inBlocks`): whenever a block goes, those that stay close
 * ranks, so that no query is ever further from a key than the policy's capacity, whatever the stream's length. A model
 * does not understand distances that it was not trained on. What stays and what goes is for `inner` alone.
 *
 * @param block As many tokens as `inner` lets go at a time.
 */
export function contiguous(inner: CachePolicy, block: number): CachePolicy {
  const tokens = inner.capacity({ tokens: Number.POSITIVE_INFINITY, step: 1 });
  return {
    ...inner,
    id: `contiguous(${inner.id})`,
    sinks: tokens - block,
    settles: block,
    plan(view): Plan {
      const steps = inner.plan(view);
      // Also when nothing had to go (a rewind or a layer's own window took some): else unsettled tokens pile up.
      const due = view.seen % block === 0 && view.lengthOf("stream") > 0 && view.length <= tokens - block;
      return steps.length > 0 || due ? [...steps, { kind: "settle" }] : steps;
    },
  };
}

/** `policy`, at the positions that were asked for. */
export const placed = (policy: CachePolicy, positions: Placement, block: number): CachePolicy =>
  positions === "original" ? policy : contiguous(policy, block);
