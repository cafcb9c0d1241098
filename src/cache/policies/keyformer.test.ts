import { describe, expect, it } from "vitest";
import { TinyHost } from "../../../test/support/cache-runner.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import type { CachePolicy } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { h2o } from "./h2o.js";
import { keyformer } from "./keyformer.js";

const host = await TinyHost.open("llama", createReference());

/** Positions that each lane holds after a stream. */
async function kept(policy: CachePolicy): Promise<number[][]> {
  const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
  const runner = await host.runner(layout, pagesFor(layout, Number.POSITIVE_INFINITY));
  const cache = runner.open();
  await runner.run(cache, tinyPrompt(90));
  return cache.views.map(({ region, positionsAt, numPages, pageTokens }) => {
    const positions = [...region.int32(positionsAt, numPages * pageTokens)];
    return positions.filter((position) => position >= 0).sort((a, b) => a - b);
  });
}

describe("keyformer", () => {
  it("is h2o without noise at temperature 1", async () => {
    const plain = keyformer({ heavy: 12, recent: 16, noise: 0, warming: 0 });
    expect(await kept(plain)).toEqual(await kept(h2o({ heavy: 12, recent: 16, weigh: "sum" })));
  });

  it("keeps the same tokens for the same seed, others for another", async () => {
    const one = await kept(keyformer({ heavy: 12, recent: 16, seed: 1 }));
    expect(await kept(keyformer({ heavy: 12, recent: 16, seed: 1 }))).toEqual(one);
    expect(await kept(keyformer({ heavy: 12, recent: 16, seed: 2 }))).not.toEqual(one);
  });

  it("warms up from where the budget is full, in steps of a block", () => {
    const { tempered } = keyformer({ heavy: 60, recent: 40, seed: 7 }).mass!;
    const at = (seen: number) => tempered!(seen);
    expect(at(0)).toEqual({ temperature: 1, noise: 1, seed: 7 });
    expect(at(100).temperature).toBe(1);
    expect(at(129).temperature).toBeCloseTo(1.2);
    expect(at(120).temperature).toBe(at(129).temperature);
    expect(at(100_000).temperature).toBe(2);
  });

  it("refuses what is out of range", () => {
    const make = (more: object) => () => keyformer({ heavy: 4, recent: 4, ...more });
    expect(make({ noise: -1 })).toThrow(/noise is -1; a number from 0/);
    expect(make({ temperature: 0 })).toThrow(/temperature is 0/);
    expect(make({ maxTemperature: 0.5 })).toThrow(/maxTemperature is 0.5; a number from 1/);
    expect(make({ seed: 2 ** 31 })).toThrow(/seed is 2147483648/);
  });
});
