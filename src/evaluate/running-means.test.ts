import { describe, expect, it } from "vitest";
import { median } from "./median.js";
import { RunningMeans } from "./running-means.js";

describe("RunningMeans", () => {
  it("knows the mean of any stretch while the stream is short", () => {
    const means = new RunningMeans();
    for (const value of [1, 2, 6, Number.NaN, 5]) means.push(value);
    expect(means.length).toBe(5);
    expect([means.mean(), means.mean(1, 3), means.mean(3, 4), means.mean(3, 5)]).toEqual([
      3.5,
      4,
      Number.NaN,
      5,
    ]);
  });

  it("keeps stretches within a few thousandths of the stream, however long", () => {
    const means = new RunningMeans();
    const length = 1_000_003;
    for (let i = 0; i < length; i++) means.push(i);
    expect(means.length).toBe(length);
    expect(means.mean()).toBeCloseTo((length - 1) / 2, 6);
    expect(Math.abs(means.mean(0, length / 10) - length / 20)).toBeLessThan(length / 2000);
    expect(Math.abs(means.mean(length - length / 10) - length * 0.95)).toBeLessThan(length / 2000);
  });
});

describe("median", () => {
  it("is the middle, or between the two in the middle", () => {
    expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([])]).toEqual([2, 2.5, Number.NaN]);
  });
});
