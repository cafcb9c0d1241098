import { describe, expect, it } from "vitest";
import { createRandom } from "./random.js";

describe("createRandom", () => {
  it("is xoshiro128**: its published first words", () => {
    const random = createRandom(0);
    random.restore([1, 2, 3, 4]);
    const words = [11520, 0, 5927040, 70819200, 2031721883, 1637235492] as const;
    for (let i = 0; i < words.length; i += 2) {
      expect(random.next()).toBe(((words[i]! >>> 5) * 2 ** 26 + (words[i + 1]! >>> 6)) / 2 ** 53);
    }
  });

  it("gives one sequence per seed, and different ones for seeds that differ in any bit", () => {
    const first = (seed: number) => {
      const random = createRandom(seed);
      return [random.next(), random.next()].join();
    };
    const seeds = [0, ...Array.from({ length: 53 }, (_, bit) => 2 ** bit), 2 ** 53 - 1];
    expect(first(7)).toBe(first(7));
    expect(new Set(seeds.map(first)).size).toBe(seeds.length);
  });

  it("continues from a saved state that went through JSON", () => {
    const random = createRandom(42);
    random.next();
    const state = JSON.parse(JSON.stringify(random.save()));
    const expected = [random.next(), random.next(), random.next()];
    const other = createRandom(1);
    other.restore(state);
    expect([other.next(), other.next(), other.next()]).toEqual(expected);
  });

  it("is uniform over [0, 1)", () => {
    const random = createRandom(3);
    const bins = new Array<number>(64).fill(0);
    const draws = 64_000;
    for (let i = 0; i < draws; i++) {
      const x = random.next();
      bins[Math.floor(x * 64)]!++;
    }
    const chiSquare = bins.reduce((sum, n) => sum + (n - draws / 64) ** 2 / (draws / 64), 0);
    expect(chiSquare).toBeLessThan(117); // 63 degrees of freedom, p = 1e-4
  });

  it("refuses states that cannot be", () => {
    const random = createRandom(0);
    for (const state of [[0, 0, 0, 0], [1, 2, 3], [1, 2, 3, 2 ** 32], [1, 2, 3, -1], [1, 2, 3, 0.5], null]) {
      expect(() => random.restore(state as never)).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT" }),
      );
    }
  });
});
