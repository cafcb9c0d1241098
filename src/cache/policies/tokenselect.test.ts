import { describe, expect, it } from "vitest";
import { TinyHost } from "../../../test/support/cache-runner.js";
import { viewOf } from "../../../test/support/lane-view.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import type { CachePolicy } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { full } from "./full.js";
import { recycled } from "./recycled.js";
import { tokenselect } from "./tokenselect.js";

const ascending = (count: number) => Array.from({ length: count }, (_, i) => i);
const chosen = (policy: CachePolicy, mass: readonly number[]) =>
  [...policy.selects!.choose(viewOf(ascending(mass.length), { mass }))].sort((a, b) => a - b);

describe("recycled and tokenselect", () => {
  it("choose the neighbourhood of what was attended most, and the first tokens", () => {
    const mass = ascending(30).map((p) => (p === 12 ? 1 : p === 20 ? 0.5 : 0.01));
    expect(chosen(recycled({ tokens: 8, kernel: 3, sinks: 2 }), mass)).toEqual([
      0, 1, 11, 12, 13, 19, 20, 21,
    ]);
    expect(chosen(tokenselect({ tokens: 2, init: 1, local: 3 }), mass)).toEqual([0, 12, 20, 27, 28, 29]);
    expect(chosen(recycled({ tokens: 30 }), mass)).toEqual(ascending(30));
  });

  it("look at everything once a stride, and choose by the one query that did", () => {
    const { selects, maxIncoming, mass } = recycled({ tokens: 8, stride: 5 });
    expect(ascending(7).map((seen) => selects!.at(seen))).toEqual([
      "all",
      "choose",
      "keep",
      "keep",
      "keep",
      "all",
      "choose",
    ]);
    expect(ascending(7).map((seen) => maxIncoming!(seen))).toEqual([1, 4, 3, 2, 1, 1, 4]);
    expect(mass).toEqual({ queries: 1 });
  });

  it("attend to everything with a stride of one token, and hide the rest otherwise", async () => {
    const host = await TinyHost.open("llama", createReference());
    const run = async (policy: CachePolicy) => {
      const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
      const runner = await host.runner(layout, pagesFor(layout, 60));
      const cache = runner.open();
      const logits = await runner.run(cache, tinyPrompt(60));
      const seen = cache.views.map(({ logCounts, positionsAt, region, numPages, pageTokens }) => {
        const positions = region.int32(positionsAt, numPages * pageTokens);
        return [...positions].filter(
          (p, slot) => p >= 0 && logCounts && logCounts.float32(0, positions.length)[slot] === 0,
        );
      });
      return { logits, seen, report: cache.report() };
    };
    const all = await run(full());
    const { logits, report } = await run(recycled({ tokens: 4, stride: 1 }));
    expect(report).toMatchObject({ seen: 60, kept: 60, dropped: 0 });
    expect(logits).toEqual(all.logits);
    // The last choice was made when 51 tokens were stored; nine have come since.
    for (const seen of (await run(recycled({ tokens: 6, stride: 10 }))).seen) {
      expect(seen).toHaveLength(6 + 9);
      expect(seen).toEqual(expect.arrayContaining([0, 1, 2, 3, 51, 59]));
    }
  });

  it("refuse what is out of range", () => {
    expect(() => recycled({ tokens: 4, sinks: 5 })).toThrow(/sinks is 5; a whole number from 0 to 4/);
    expect(() => recycled({ tokens: 4, stride: 0 })).toThrow(/stride is 0/);
    expect(() => tokenselect({ tokens: 0 })).toThrow(/tokens is 0/);
  });
});
