import { describe, expect, it } from "vitest";
import { type Panel, plot } from "./plot.js";

const panel = (change: Partial<Panel> = {}): Panel => ({
  title: "Title",
  x: { label: "tokens" },
  y: { label: "percent" },
  series: [{ name: "one", points: [] }],
  ...change,
});
const labels = (svg: string, anchor: "end" | "middle") =>
  [...svg.matchAll(/<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" fill="[^"]+">([^<]+)</g)]
    .filter(([, , , at]) => at === anchor)
    .map(([, x, y, , text]) => ({ x: Number(x), y: Number(y), text: text! }));
const lines = (svg: string) =>
  [...svg.matchAll(/<polyline points="([^"]+)"/g)].map(([, list]) =>
    list!.split(" ").map((pair) => pair.split(",").map(Number) as [number, number]),
  );

describe("plot", () => {
  it("draws points where logarithmic ticks say they are", () => {
    const svg = plot(
      panel({
        x: { label: "distance", scale: "log" },
        series: [
          {
            name: "one",
            points: [
              [10, 0],
              [1000, 50],
              [100_000, 100],
            ],
          },
        ],
      }),
    );
    const ticks = new Map(labels(svg, "middle").map(({ x, text }) => [text, x]));
    const [line] = lines(svg);
    expect(line!.map(([x]) => x)).toEqual([ticks.get("10"), ticks.get("1,000"), ticks.get("100,000")]);
    expect(line![1]![0] * 2).toBeCloseTo(line![0]![0] + line![2]![0], 0);
  });

  it("has ticks between powers of ten where there is but one", () => {
    const points = [
      [0, 38],
      [1, 71],
    ] as const;
    const svg = plot(panel({ y: { label: "perplexity", scale: "log" }, series: [{ name: "one", points }] }));
    expect(labels(svg, "end").map(({ text }) => text)).toEqual(["30", "40", "50", "60", "70", "80"]);
  });

  it("breaks lines where there is nothing to draw, and marks points that stand alone", () => {
    const points = [
      [0, 1],
      [1, 2],
      [2, Number.NaN],
      [3, 4],
    ] as const;
    const svg = plot(panel({ series: [{ name: "one", style: "marks", points }] }));
    expect(lines(svg).map((line) => line.length)).toEqual([2, 1]);
    expect(svg.match(/<circle/g)).toHaveLength(3);
    expect(svg).not.toMatch(/NaN|Infinity/);
  });

  it("names series that are told apart, alike within a group, and dashed where asked", () => {
    const points = [
      [0, 1],
      [1, 2],
    ] as const;
    const svg = plot(
      panel({
        series: [
          { name: "sinks <180>", group: "sinks", dashed: true, points },
          { name: "sinks 450", group: "sinks", points },
          { name: "full", points },
        ],
      }),
    );
    expect(svg).toContain(">sinks &lt;180&gt;</text>");
    const colours = [...svg.matchAll(/<polyline [^>]*stroke="([^"]+)"/g)].map(([, colour]) => colour);
    expect(colours[0]).toBe(colours[1]);
    expect(colours[2]).not.toBe(colours[0]);
    expect(svg.match(/<polyline [^>]*dasharray/g)).toHaveLength(1);
  });

  it("puts panels one below the other", () => {
    const svg = plot(panel(), panel({ title: "Second" }));
    expect(svg).toContain('height="900"');
    expect(svg.indexOf(">Title<")).toBeLessThan(svg.indexOf(">Second<"));
  });
});
