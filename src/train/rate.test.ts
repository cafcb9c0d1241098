import { describe, expect, it } from "vitest";
import { DECAYS, type RateSchedule, rateAt } from "./rate.js";

const schedule = (decay: RateSchedule["decay"]): RateSchedule => ({
  rate: 0.8,
  warmup: 3,
  decay,
  final: 0.1,
  steps: 103,
});

describe("rateAt", () => {
  it.each(DECAYS)("%s: rises in a line, never passes the rate, ends at its final share", (decay) => {
    const rates = Array.from({ length: 103 }, (_, i) => rateAt(schedule(decay), i + 1));
    for (const i of [0, 1, 2]) expect(rates[i]).toBeCloseTo(0.2 * (i + 1), 12);
    expect(Math.max(...rates)).toBeLessThanOrEqual(0.8);
    expect(rates.at(-1)).toBeCloseTo(0.08, 12);
    for (let i = 4; i < rates.length; i++) expect(rates[i]!).toBeLessThanOrEqual(rates[i - 1]!);
  });

  it("is half way down in the middle, but for the level stretch", () => {
    const middle = 53;
    expect(rateAt(schedule("cosine"), middle)).toBeCloseTo(0.44, 12);
    expect(rateAt(schedule("linear"), middle)).toBeCloseTo(0.44, 12);
    expect(rateAt(schedule("warmup-stable-decay"), middle)).toBe(0.8);
    expect(rateAt(schedule("warmup-stable-decay"), 82)).toBe(0.8);
    expect(rateAt(schedule("warmup-stable-decay"), 93)).toBeLessThan(0.5);
  });

  it("holds for runs that are all warm-up", () => {
    expect(rateAt({ ...schedule("linear"), warmup: 5, steps: 5 }, 5)).toBeCloseTo((0.8 * 5) / 6, 12);
  });
});
