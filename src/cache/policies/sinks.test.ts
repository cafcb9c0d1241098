import { describe, expect, it } from "vitest";
import { difference, TinyHost } from "../../../test/support/cache-runner.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import { pagesFor, planLayout } from "../layout.js";
import { Rotations } from "../rotations.js";
import { SequenceCache } from "../sequence.js";
import { sinks } from "./sinks.js";

const WINDOW = 24;
const SINKS = 4;

async function start() {
  const host = await TinyHost.open("llama", createReference());
  const policy = sinks({ window: WINDOW, sinks: SINKS });
  const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
  const runner = await host.runner(layout, 2 * pagesFor(layout, Number.POSITIVE_INFINITY));
  return { layout, runner };
}

describe("sinks", () => {
  it("keeps every distance below sinks + window over a stream of twenty times as much", async () => {
    const { layout, runner } = await start();
    const cache = new SequenceCache(runner.pool, layout);
    const rotations = new Rotations();
    for (let at = 0; at < 20 * (SINKS + WINDOW); at++) {
      rotations.clear();
      const [view] = cache.prepare(Int32Array.of(at), rotations).views;
      const { region, numPages, pageTokens } = view!;
      const rows = region.int32(view!.rotationsAt, numPages);
      const stored = new Set<number>();
      for (const [slot, position] of region.int32(view!.positionsAt, numPages * pageTokens).entries()) {
        if (position < 0) continue;
        const row = rows[Math.floor(slot / pageTokens)]!;
        stored.add(position - (row < 0 ? 0 : rotations.values()[row]!));
      }
      // Contiguous, the newest being the query itself.
      const ordered = [...stored].sort((a, b) => a - b);
      expect(ordered).toEqual(Array.from(ordered, (_, i) => at - ordered.length + 1 + i));
      expect(ordered.length).toBeLessThanOrEqual(SINKS + WINDOW);
      expect(ordered.length).toBeGreaterThanOrEqual(Math.min(at + 1, SINKS + (3 * WINDOW) / 4));
    }
    expect(runner.pool.usage().peak).toBeLessThanOrEqual(pagesFor(layout, Number.POSITIVE_INFINITY));
    expect(cache.report()).toMatchObject({ seen: 560, dropped: 560 - cache.report().kept });
  });

  it("knows only differences of positions: a stream that begins elsewhere gives the same", async () => {
    const { runner } = await start();
    const tokens = tinyPrompt(70);
    const want = await runner.run(runner.open(), tokens);
    const got = await runner.run(runner.open(), tokens, { from: 1000 });
    expect(difference(got, want)).toBeLessThan(2e-4);
  });
});
