import { describe, expect, it } from "vitest";
import { longestFitting } from "./longest.js";

describe("longestFitting", () => {
  it.each([
    ["a line", (n: number) => 1000 + 7 * n],
    ["a line with steps", (n: number) => 1000 + 7 * n + 5000 * Math.floor(n / 777)],
    ["a bend", (n: number) => 500 + Math.max(3 * n, 11 * n - 40_000)],
  ])("finds the last that fits: %s", async (_, bytesOf) => {
    for (const budget of [0, 1111, 1112, 50_000, 1_234_567, 1e9]) {
      let calls = 0;
      const found = await longestFitting(budget, 16, async (n) => {
        calls++;
        return bytesOf(n);
      });
      expect(found % 16).toBe(0);
      expect(found === 0 || bytesOf(found) <= budget).toBe(true);
      expect(bytesOf(found + 16)).toBeGreaterThan(budget);
      expect(calls).toBeLessThan(80);
    }
  });
});
