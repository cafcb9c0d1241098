import { describe, expect, it } from "vitest";
import { TinyHost } from "../../../test/support/cache-runner.js";
import { viewOf } from "../../../test/support/lane-view.js";
import { createReference } from "../../backends/reference/index.js";
import type { PlanStep } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { kvmerger } from "./kvmerger.js";

const ascending = (count: number) => Array.from({ length: count }, (_, i) => i);
/** Unit keys by angle. */
const turned = (angles: readonly number[]) => angles.map((angle) => [Math.cos(angle), Math.sin(angle)]);

function mergesOf(plan: readonly PlanStep[]) {
  return plan.map((step) => {
    if (step.kind !== "merge") throw new Error(step.kind);
    return { into: step.into, slots: [...Array.from(step.slots)], weights: [...step.weights] };
  });
}

describe("kvmerger", () => {
  // 10 tokens, of which the 2 newest and the most attended, slot 4, are protected; blocks of a quarter of 10 - 3.
  const policy = kvmerger({ tokens: 10, recent: 2, heavy: 1 });
  const mass = (p: number) => (p === 4 ? 90 : p === 1 ? 9 : 1);

  it("merges the neighbours that are most alike into the one that received most", () => {
    const angles = [0, 1, 1.001, 2, 2.001, 3, 0.5, 4, 5, 5.001];
    const view = viewOf(ascending(10), { mass: ascending(10).map(mass), keys: turned(angles) });
    const [merge] = mergesOf(policy.plan(view));
    // 1 and 2 are alike; 3 and 4 are too, but 4 is protected, as are 8 and 9.
    expect(merge).toMatchObject({ into: 1, slots: [2] });
    expect(merge!.weights[0]! + merge!.weights[1]!).toBeCloseTo(1);
    // The one at the mean distance of the run from the pivot weighs exp(-1/2) as much.
    expect(merge!.weights[1]! / merge!.weights[0]!).toBeCloseTo(Math.exp(-0.5));
  });

  it("weighs identical tokens by how many they stand for", () => {
    const angles = [0, 1, 1, 2, 2.4, 3, 0.5, 4, 5, 5];
    const counts = [1, 3, 1, 1, 1, 1, 1, 1, 1, 1];
    const view = viewOf(ascending(10), { mass: ascending(10).map(mass), keys: turned(angles), counts });
    expect(mergesOf(policy.plan(view))).toEqual([{ into: 1, slots: [2], weights: [0.75, 0.25] }]);
  });

  it("lets the least attended go where none are alike enough", () => {
    const strict = kvmerger({ tokens: 10, recent: 2, heavy: 1, similarity: 1.5 });
    const view = viewOf(ascending(10), { mass: ascending(10).map((p) => (p === 6 ? 0 : mass(p))) });
    expect(strict.plan(view)).toEqual([{ kind: "drop", slots: [6] }]);
  });

  it("counts every token once, however often it is merged", async () => {
    const host = await TinyHost.open("llama", createReference());
    const layoutOf = (tokens: number) => {
      const wanted = kvmerger({ tokens, recent: 2, heavy: 0, per: "layer" });
      return planLayout({ kv: host.tape.kv, policy: wanted, codec: "f32", step: 16, pageTokens: 16 });
    };
    const layout = layoutOf(20);
    const runner = await host.runner(layout, pagesFor(layout, Number.POSITIVE_INFINITY));
    const cache = runner.open();
    await runner.run(
      cache,
      Array.from({ length: 200 }, () => 7),
    );
    const { seen, kept, merged, dropped } = cache.report();
    expect({ seen, total: kept + merged, dropped }).toEqual({ seen: 200, total: 200, dropped: 0 });
    for (const { region, logCounts, positionsAt, numPages, pageTokens } of cache.views) {
      const positions = region.int32(positionsAt, numPages * pageTokens);
      let counted = 0;
      for (const [slot, position] of positions.entries()) {
        if (position >= 0) counted += Math.exp(logCounts!.float32(0, positions.length)[slot]!);
      }
      expect(counted).toBeCloseTo(200, 2);
    }
  });

  it("refuses budgets that leave nothing to merge", () => {
    expect(() => kvmerger({ tokens: 7 })).toThrow(/tokens is 7; a whole number from 8/);
    expect(() => kvmerger({ tokens: 16, recent: 8, heavy: 8 })).toThrow(
      /heavy is 8; a whole number from 0 to 4/,
    );
  });
});
