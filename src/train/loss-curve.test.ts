import { describe, expect, it } from "vitest";
import { lossCurve } from "./loss-curve.js";

const points = (svg: string) =>
  [...svg.matchAll(/points="([^"]+)"/g)].map(([, list]) =>
    list!.split(" ").map((pair) => pair.split(",").map(Number) as [number, number]),
  );

describe("lossCurve", () => {
  it("draws every loss where the axes say it is", () => {
    const svg = lossCurve({
      train: [4, 3, 2, 1],
      heldOut: [
        { step: 2, loss: 3.5 },
        { step: 4, loss: 1 },
      ],
    });
    const ticks = [...svg.matchAll(/y="([\d.]+)" text-anchor="end" fill="[^"]+">([\d.]+)</g)].map(
      ([, y, value]) => ({ y: Number(y) - 4, value: Number(value) }),
    );
    const [bottom, top] = [ticks[0]!, ticks.at(-1)!];
    const lossAt = (y: number) =>
      bottom.value + ((y - bottom.y) / (top.y - bottom.y)) * (top.value - bottom.value);
    const [train, , heldOut] = points(svg);
    for (const [i, loss] of [4, 3, 2, 1].entries()) expect(lossAt(train![i]![1])).toBeCloseTo(loss, 2);
    expect(heldOut!.map(([, y]) => Number(lossAt(y).toFixed(2)))).toEqual([3.5, 1]);
    expect(heldOut![1]![0]).toBe(train![3]![0]);
  });

  it("has round ticks, a legend with the last losses, and no room for markup in the title", () => {
    const train = Array.from({ length: 12_345 }, (_, i) => 8 * Math.exp(-i / 3000) + 1);
    const svg = lossCurve({ train, heldOut: [] }, "<b> & co");
    expect(svg).toContain("<title>&lt;b&gt; &amp; co</title>");
    expect(svg).toContain(">5,000</text>");
    expect(svg).toMatch(/train \(1\.1\d\d\)/);
    expect(svg).not.toContain("held out");
    for (const line of points(svg)) expect(line.length).toBeLessThanOrEqual(1001);
    expect(svg).not.toMatch(/NaN|Infinity/);
  });

  it("stands runs that have just begun, stand still, or went wrong", () => {
    for (const train of [[], [2], [2, 2, 2], [2, Number.NaN]]) {
      expect(lossCurve({ train, heldOut: [] }).replace(/NaN\)|points="[^"]*"/g, "")).not.toMatch(
        /NaN|Infinity/,
      );
    }
  });
});
