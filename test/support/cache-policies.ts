/** The policies that every backend is tested with: those there are, and some that use all that a policy may. */
import { inBlocks } from "../../src/cache/blocks.js";
import type { CachePolicy, LaneView, PlanStep } from "../../src/cache/contract.js";
import { full } from "../../src/cache/policies/full.js";
import { window } from "../../src/cache/policies/window.js";
import { byScore } from "../../src/cache/score.js";
import type { PolicyCase } from "./cache-suite.js";

/** First 4 tokens and the last ones, moved so that positions are contiguous: what segments are for. */
const sinksAndWindow = (tokens: number): CachePolicy => ({
  id: `sinksAndWindow(${tokens})`,
  sinks: 4,
  ...inBlocks(tokens, (view, excess) => {
    const stream = [...view.oldest()].filter((slot) => view.segmentOf(slot) === "stream");
    const drop: PlanStep = { kind: "drop", slots: stream.slice(0, excess) };
    const first = stream[excess] === undefined ? view.nextPosition : view.positions[stream[excess]]!;
    return [drop, { kind: "move", segment: "sinks", offset: first - view.lengthOf("sinks") }];
  }),
});

/** Those that received the most attention, and the last 8: what scores are for. */
export const mostAttended = (tokens: number): CachePolicy =>
  byScore({
    id: `mostAttended(${tokens})`,
    tokens,
    mass: true,
    score(view: LaneView) {
      const score = view.mass();
      let recent = 8;
      for (const slot of view.newest()) if (recent-- > 0) score[slot] = Number.POSITIVE_INFINITY;
      return score;
    },
  });

export const POLICIES: readonly PolicyCase[] = [
  { name: "full", create: () => full() },
  { name: "window", create: (tokens) => window({ tokens }) },
  { name: "sinks moved next to a window", create: sinksAndWindow },
  { name: "by attention mass", create: mostAttended },
];

/** Lanes of one layer that keep different tokens, in ways that differ from layer to layer. */
export const MIXED: PolicyCase = {
  name: "another policy for each lane",
  create:
    (tokens) =>
    ({ layer, head }) =>
      (layer + head) % 2 === 0 ? sinksAndWindow(tokens) : mostAttended(tokens),
};
