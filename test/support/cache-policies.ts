/** The policies that every backend is tested with: those there are, and some that use all that a policy may. */
import type { CachePolicy, LaneView } from "../../src/cache/contract.js";
import { full } from "../../src/cache/policies/full.js";
import { sinks } from "../../src/cache/policies/sinks.js";
import { window } from "../../src/cache/policies/window.js";
import { byScore } from "../../src/cache/score.js";
import type { PolicyCase } from "./cache-suite.js";

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
  { name: "sinks", create: (tokens) => sinks({ window: tokens - 4 }) },
  { name: "by attention mass", create: mostAttended },
];

/** Lanes of one layer that keep different tokens, in ways that differ from layer to layer. */
export const MIXED: PolicyCase = {
  name: "another policy for each lane",
  create:
    (tokens) =>
    ({ layer, head }) =>
      (layer + head) % 2 === 0 ? sinks({ window: tokens - 4 }) : mostAttended(tokens),
};
