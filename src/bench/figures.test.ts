import { describe, expect, it } from "vitest";
import { planBatch } from "../batch/plan.js";
import { sharingPrompts } from "./batch-orders.js";
import { quantile, quantiles } from "./quantiles.js";
import { stallFigures } from "./stall.js";

describe("quantiles", () => {
  it("are values that were measured", () => {
    const values = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect(quantiles(values)).toEqual({ p50: 50, p90: 90, p99: 99, max: 100 });
    expect(quantile([3, 1], 0.5)).toBe(1);
    expect(quantile([7], 0.99)).toBe(7);
    expect(quantile([], 0.5)).toBeNaN();
  });
});

describe("stallFigures", () => {
  it("counts gaps that overlap with the late prompt, and those before it, and none after", () => {
    const figures = stallFigures({
      times: [
        [100, 110, 120, 190, 290, 300],
        [105, 115, 160, 210, 280, 600],
      ],
      cameAt: 130,
      firstAt: 285,
    });
    expect(figures.before).toEqual({ p50: 10, p90: 10, p99: 10, max: 10 });
    // 70 and 100 of the first; 45, 50, 70 and 320 of the second, whose last began before the prompt was through.
    expect(figures.during).toEqual({ p50: 70, p90: 320, p99: 320, max: 320 });
    expect(figures.firstTokenMs).toBe(155);
    expect(figures.tokensPerSecondBefore).toBeCloseTo(3000 / 25);
    expect(figures.tokensPerSecondDuring).toBeCloseTo(4000 / 155);
  });
});

describe("sharingPrompts", () => {
  const shape = { prompts: 60, groups: 6, prefix: 100, suffix: 10, answer: 16, seed: 3 };

  it("shares prefixes in equal parts, in random order, and all else is each prompt's own", () => {
    const prompts = sharingPrompts(shape, 1536);
    const prefixes = prompts.map(({ tokens }) => tokens.slice(0, 100).join());
    const counts = new Map<string, number>();
    for (const prefix of prefixes) counts.set(prefix, (counts.get(prefix) ?? 0) + 1);
    expect([...counts.values()]).toEqual([10, 10, 10, 10, 10, 10]);
    expect(new Set(prompts.map(({ tokens }) => tokens.slice(100).join())).size).toBe(60);
    const inARow = prefixes.filter((prefix, i) => prefix === prefixes[i - 1]).length;
    expect(inARow).toBeLessThan(30);
    for (const { tokens, answerTokens } of prompts) {
      expect(tokens).toHaveLength(110);
      expect(answerTokens).toBeGreaterThanOrEqual(8);
      expect(answerTokens).toBeLessThanOrEqual(24);
    }
    expect(sharingPrompts(shape, 1536)).toEqual(prompts);
    expect(sharingPrompts({ ...shape, seed: 4 }, 1536)).not.toEqual(prompts);
  });

  it("is what planning a batch is for", () => {
    const { groups, savedTokens } = planBatch(sharingPrompts(shape, 1536), 16);
    expect(groups).toHaveLength(6);
    expect(savedTokens).toBe(6 * 9 * 96);
  });
});
