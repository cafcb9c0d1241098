import { describe, expect, it } from "vitest";
import { TinyHost } from "../../../test/support/cache-runner.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import type { CachePolicy } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import type { SequenceCache } from "../sequence.js";
import { full } from "./full.js";
import { recycled } from "./recycled.js";
import { tokenselect } from "./tokenselect.js";

const LENGTH = 60;

/** Runs a prompt, `chunk` tokens a step; `seen` are the positions that each token attended to, by group. */
async function run(policy: CachePolicy, chunk = 16) {
  const host = await TinyHost.open("llama", createReference());
  const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
  const runner = await host.runner(layout, pagesFor(layout, LENGTH));
  const cache = runner.open();
  const seen: number[][][] = [];
  const logits = await runner.run(cache, tinyPrompt(LENGTH), {
    chunk,
    afterStep: (part) => {
      for (const t of part.keys()) seen.push(attended(cache, t, seen.length));
    },
  });
  return { logits, seen, report: cache.report() };
}

function attended(cache: SequenceCache, token: number, position: number): number[][] {
  return cache.views.map(({ choice, positionsAt, region, numPages, pageTokens }) => {
    const positions = region.int32(positionsAt, numPages * pageTokens);
    const shown = choice?.shown.int32(0, positions.length);
    const here = [...positions].filter(
      (p, slot) => p >= 0 && p <= position && (!shown || (shown[slot]! >> token) & 1),
    );
    return here.sort((a, b) => a - b);
  });
}

describe("recycled and tokenselect", () => {
  it("let every query attend to the first, the newest, and as many others as it may choose", async () => {
    const { seen } = await run(tokenselect({ tokens: 4, init: 2, local: 3, similar: 1 }));
    for (const [position, groups] of seen.entries()) {
      for (const here of groups) {
        const newest = [position - 2, position - 1, position].filter((p) => p >= 0);
        expect(here).toEqual(expect.arrayContaining([0, ...newest]));
        expect(here).toHaveLength(Math.min(position + 1, 9));
      }
    }
    // Each query chooses for itself: they do not all choose alike.
    const between = seen.slice(30).map(([first]) => first!.slice(2, 6).join());
    expect(new Set(between).size).toBeGreaterThan(15);
  });

  it("keep a choice, and add what came since, as long as queries are alike", async () => {
    const { seen } = await run(tokenselect({ tokens: 4, init: 2, local: 3, similar: -1 }));
    for (const [position, groups] of seen.entries())
      for (const here of groups) expect(here).toEqual(Array.from({ length: position + 1 }, (_, p) => p));
  });

  it("attend to everything once a stride, and in between to what was chosen there and to what came since", async () => {
    const { seen } = await run(recycled({ tokens: 6, stride: 10, similar: -1, kernel: 3 }));
    for (const [position, groups] of seen.entries()) {
      const full = position - (position % 10);
      for (const here of groups) {
        const since = Array.from({ length: position - full }, (_, i) => full + 1 + i);
        expect(here).toHaveLength(position === full ? position + 1 : Math.min(full + 1, 6) + since.length);
        if (full >= 10) expect(here).toEqual(expect.arrayContaining([0, 1, 2, 3, ...since]));
      }
    }
  });

  it("attend to everything where a query that is compared is unlike the last that did", async () => {
    const whole = (policy: CachePolicy) =>
      run(policy).then(({ seen }) =>
        seen.flatMap((groups, position) =>
          groups.every((here) => here.length === position + 1) ? [position] : [],
        ),
      );
    const turned = await whole(recycled({ tokens: 6, stride: 50, every: 4, similar: 1 }));
    // At position 4 all five tokens were chosen, and up to 7 all since.
    expect(turned.filter((position) => position > 7)).toEqual(
      Array.from({ length: 13 }, (_, i) => 8 + 4 * i).filter((position) => position < LENGTH),
    );
  });

  it("attend as a full cache does with a stride of one token, and choose the same however a prompt is cut", async () => {
    const all = await run(full());
    const { logits, report } = await run(recycled({ tokens: 4, stride: 1 }));
    expect(report).toMatchObject({ seen: LENGTH, kept: LENGTH, dropped: 0 });
    expect(logits).toEqual(all.logits);
    const policy = tokenselect({ tokens: 4, init: 2, local: 3, similar: 0.3 });
    expect((await run(policy, 1)).seen).toEqual((await run(policy, 16)).seen);
  });

  it("refuse what is out of range", () => {
    expect(() => recycled({ tokens: 4, sinks: 5 })).toThrow(/sinks is 5; a whole number from 0 to 4/);
    expect(() => recycled({ tokens: 4, stride: 0 })).toThrow(/stride is 0/);
    expect(() => recycled({ tokens: 4, similar: 2 })).toThrow(/similar is 2; a number from -1 to 1/);
    expect(() => tokenselect({ tokens: 0 })).toThrow(/tokens is 0/);
    expect(() => tokenselect({ tokens: 1, per: "model" as "layer" })).toThrow(/one of "layer", "head"/);
  });
});
