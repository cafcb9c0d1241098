import { describe, expect, it } from "vitest";
import { type CacheRunner, TinyHost } from "../../../test/support/cache-runner.js";
import { viewOf } from "../../../test/support/lane-view.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import { pagesFor, planLayout } from "../layout.js";
import { snapkv } from "./snapkv.js";

const ascending = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("snapkv", () => {
  it("keeps a needle that the tail looks at, with its neighbours, and the tail", () => {
    const policy = snapkv({ tokens: 40, window: 8, kernel: 5 });
    const mass = ascending(40).map((p) => (p === 12 ? 1 : p >= 32 ? 9 : 0.05 + p / 1000));
    const [step] = policy.plan(viewOf(ascending(40), { mass }));
    const gone = new Set(step?.kind === "drop" ? Array.from(step.slots) : []);
    // The oldest go, but for the needle's neighbourhood.
    expect([...gone].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const [max] = snapkv({ tokens: 40, window: 8, kernel: 1, pool: "max" }).plan(
      viewOf(ascending(40), { mass: mass.map((x, p) => (p === 3 ? 1 : x)) }),
    );
    expect(max?.kind === "drop" && Array.from(max.slots)).toEqual([0, 1, 2, 4, 5, 6, 7, 8, 9, 10]);
  });

  it("never pools the window's own attention into its neighbours", () => {
    const mass = ascending(8).map((p) => (p >= 6 ? 100 : 6 - p));
    const [step] = snapkv({ tokens: 8, window: 2, kernel: 3 }).plan(viewOf(ascending(8), { mass }));
    expect(step).toMatchObject({ slots: [5, 4] });
  });

  it("sees the mass of the last queries before tokens go, and of no others", async () => {
    const host = await TinyHost.open("llama", createReference());
    const policy = snapkv({ tokens: 32, window: 3, per: "layer" });
    const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
    const runner: CacheRunner = await host.runner(layout, pagesFor(layout, Number.POSITIVE_INFINITY));
    const cache = runner.open();
    const { numHeads } = host.tape.ops.find((op) => op.op === "attention")!;
    expect(layout.groups.map(({ lanes }) => lanes.length)).toEqual(host.tape.kv.map((kv) => kv.numKvHeads));
    // Blocks of 8 go when 32, 40, 48 tokens were seen: 29 to 31 count, then 37 to 39.
    for (const [seen, queries] of [
      [28, 0],
      [30, 1],
      [32, 3],
      [33, 3],
      [37, 3],
      [38, 1],
      [40, 3],
    ] as const) {
      await runner.run(cache, tinyPrompt(40).slice(cache.length, seen), { chunk: 7 });
      for (const view of cache.views) {
        const mass = view.mass!.region.float32(0, view.lanes * view.numPages * view.pageTokens);
        const total = mass.reduce((sum, x) => sum + x, 0);
        // What evicted tokens received went with them.
        if (seen === 33 || seen === 37) expect(total).toBeLessThanOrEqual(numHeads * queries + 1e-3);
        else expect(total).toBeCloseTo(numHeads * queries, 3);
      }
    }
  });

  it("refuses windows longer than a block", () => {
    expect(() => snapkv({ tokens: 64, window: 17 })).toThrow(/window is 17; a whole number from 1 to 16/);
    expect(snapkv({ tokens: 64 }).mass).toEqual({ queries: 16 });
    expect(snapkv({ tokens: 1024 }).mass).toEqual({ queries: 32 });
    expect(() => snapkv({ tokens: 64, per: "lane" as "head" })).toThrow(/per is "lane"/);
  });
});
