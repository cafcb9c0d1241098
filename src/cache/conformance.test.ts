import { describe, expect, it } from "vitest";
import { TinyHost } from "../../test/support/cache-runner.js";
import { describePolicy, type PolicyCase } from "../../test/support/cache-suite.js";
import { tinyPrompt } from "../../test/support/tiny-models.js";
import { inBlocks } from "./blocks.js";
import type { CachePolicy, LaneView, PlanStep } from "./contract.js";
import { perLayer } from "./lanes.js";
import { pagesFor, planLayout } from "./layout.js";
import { full } from "./policies/full.js";
import { window } from "./policies/window.js";
import { byScore } from "./score.js";

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
const mostAttended = (tokens: number): CachePolicy =>
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

const ALL = ["f32", "f16", "int8"] as const;
const POLICIES: PolicyCase[] = [
  { name: "full", create: () => full() },
  { name: "window", create: (tokens) => window({ tokens }) },
  { name: "sinks moved next to a window", create: sinksAndWindow },
  { name: "by attention mass", create: mostAttended },
  {
    name: "another policy in each layer",
    create:
      (tokens) =>
      ({ layer }) =>
        perLayer([sinksAndWindow(tokens), mostAttended(tokens)])({ layer: layer % 2, head: 0 }),
  },
];

for (const policy of POLICIES) describePolicy(policy, ["llama"], ALL);
// Sliding windows of the layers themselves, and rotary embeddings with a magnitude.
for (const policy of [POLICIES[1]!, POLICIES[4]!]) describePolicy(policy, ["mistral", "qwen2-yarn"], ["f32"]);
// Layers that alternate between a window and all.
describePolicy(POLICIES[0]!, ["gemma3"], ["f32"]);

describe("attention mass", () => {
  it("is, per lane, one for every query head that asked", async () => {
    const host = await TinyHost.open("llama");
    const layout = planLayout({
      kv: host.tape.kv,
      policy: mostAttended(100),
      codec: "f32",
      step: 16,
      pageTokens: 16,
    });
    const runner = await host.runner(layout, pagesFor(layout, 100));
    const cache = runner.open();
    const attention = host.tape.ops.find((op) => op.op === "attention")!;
    const perLane = attention.numHeads / host.tape.kv[0]!.numKvHeads;
    for (const upTo of [10, 37, 60]) {
      await runner.run(cache, tinyPrompt(60).slice(cache.length, upTo), { chunk: 7 });
      const [view] = cache.views;
      const slots = view!.numPages * view!.pageTokens;
      const positions = view!.region.int32(view!.positionsAt, slots);
      for (let lane = 0; lane < view!.lanes; lane++) {
        const mass = view!.mass!.float32(4 * lane * slots, slots);
        expect(mass.reduce((sum, x) => sum + x, 0)).toBeCloseTo(perLane * upTo, 3);
        expect(mass.every((x, slot) => (positions[slot] === -1 ? x === 0 : x > 0))).toBe(true);
      }
    }
  });
});
