/** The policies that every backend is tested with: those there are, and some that use all that a policy may. */
import type { CachePolicy } from "../../src/cache/contract.js";
import { compensated } from "../../src/cache/policies/compensated.js";
import { duo } from "../../src/cache/policies/duo.js";
import { full } from "../../src/cache/policies/full.js";
import { h2o } from "../../src/cache/policies/h2o.js";
import { keyformer } from "../../src/cache/policies/keyformer.js";
import { kvmerger } from "../../src/cache/policies/kvmerger.js";
import { lacache } from "../../src/cache/policies/lacache.js";
import { razor } from "../../src/cache/policies/razor.js";
import { recycled } from "../../src/cache/policies/recycled.js";
import { sinks } from "../../src/cache/policies/sinks.js";
import { snapkv } from "../../src/cache/policies/snapkv.js";
import { think } from "../../src/cache/policies/think.js";
import { tokenselect } from "../../src/cache/policies/tokenselect.js";
import { window } from "../../src/cache/policies/window.js";
import type { PolicyCase } from "./cache-suite.js";

/** Head scores of a model of two layers of two kv heads. */
const SCORES = [
  [0.1, 0.4],
  [0.3, 0.2],
];

export const POLICIES: readonly PolicyCase[] = [
  { name: "full", create: () => full() },
  { name: "window", create: (tokens) => window({ tokens }) },
  { name: "sinks", create: (tokens) => sinks({ window: tokens - 4 }) },
  {
    name: "sinks where they stood",
    create: (tokens) => sinks({ window: tokens - 4, positions: "original" }),
  },
  { name: "h2o", create: (tokens) => h2o({ heavy: tokens - 16, recent: 16 }) },
  { name: "snapkv", create: (tokens) => snapkv({ tokens, window: 5, kernel: 3, pool: "max" }) },
  { name: "keyformer", create: (tokens) => keyformer({ heavy: tokens - 16, recent: 16 }) },
  { name: "kvmerger", create: (tokens) => kvmerger({ tokens }) },
  { name: "compensated", create: (tokens) => compensated({ window: tokens - 5 }) },
  { name: "razor", create: (tokens) => razor({ window: tokens - 5 }, { echo: SCORES, induction: SCORES }) },
  { name: "duo", create: (tokens) => duo({ keep: 0.5, sinks: 4, recent: tokens - 4 }, SCORES) },
  { name: "recycled", create: (tokens) => recycled({ tokens, stride: 6, every: 2, kernel: 3 }) },
  {
    name: "tokenselect",
    create: (tokens) => tokenselect({ tokens: tokens - 8, init: 2, local: 6, similar: 0.2 }),
  },
  {
    name: "tokenselect by head",
    create: (tokens) => tokenselect({ tokens: tokens - 8, init: 2, local: 6, similar: 1, per: "head" }),
  },
  {
    name: "h2o at contiguous positions",
    create: (tokens) => h2o({ heavy: tokens - 16, recent: 16, positions: "contiguous" }),
  },
  {
    name: "kvmerger at contiguous positions",
    create: (tokens) => kvmerger({ tokens, positions: "contiguous" }),
  },
  { name: "lacache", create: (tokens) => lacache({ tokens }) },
  { name: "think of full", create: (tokens) => thin(full(), tokens) },
  { name: "think of sinks", create: (tokens) => thin(sinks({ window: tokens - 4 }), tokens) },
  { name: "think of h2o", create: (tokens) => thin(h2o({ heavy: tokens - 16, recent: 16 }), tokens) },
  {
    name: "think of snapkv",
    create: (tokens) => thin(snapkv({ tokens, window: 5, kernel: 3, pool: "max" }), tokens),
  },
  { name: "think of kvmerger", create: (tokens) => thin(kvmerger({ tokens }), tokens) },
  {
    name: "think of recycled",
    create: (tokens) => thin(recycled({ tokens, stride: 6, every: 2, kernel: 3 }), tokens),
  },
];

/** Half of each key stays, of all but a few tokens; where the budget is to hold everything, it holds keys whole. */
const thin = (of: CachePolicy, tokens: number): CachePolicy =>
  think({ of, keep: 0.5, recent: tokens < 64 ? 8 : tokens, queries: 3 });

/** Lanes of one layer that keep different tokens, in ways that differ from layer to layer. */
export const MIXED: PolicyCase = {
  name: "another policy for each lane",
  create:
    (tokens) =>
    ({ layer, head }) =>
      (layer + head) % 2 === 0 ? sinks({ window: tokens - 4 }) : h2o({ heavy: tokens - 16, recent: 16 }),
};
