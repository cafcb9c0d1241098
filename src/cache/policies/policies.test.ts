import { describe, expect, it } from "vitest";
import { viewOf } from "../../../test/support/lane-view.js";
import { byScore, keepHighest } from "../score.js";
import { full } from "./full.js";
import { formatPolicy, parsePolicy, resolvePolicy } from "./resolve.js";
import { visible } from "./visible.js";
import { window } from "./window.js";

describe("window", () => {
  it("drops the oldest, a block at a time and only between blocks", () => {
    const policy = window({ tokens: 8 });
    const held = [8, 1, 2, 3, 4, 5, 6, 7];
    expect(policy.plan(viewOf(held.slice(0, 6)))).toEqual([]);
    expect(policy.plan(viewOf(held, { seen: 8 }))).toEqual([{ kind: "drop", slots: [1, 2] }]);
    expect(policy.plan(viewOf(held, { seen: 9 }))).toEqual([]);
    expect(policy.plan(viewOf([8, -1, -1, 3, 4, 5, 6, 7], { seen: 10 }))).toEqual([]);
  });

  it("takes a whole window at first and blocks later, so that steps end where tokens go", () => {
    const { maxIncoming, capacity } = window({ tokens: 100 });
    expect([0, 60, 99, 100, 101, 124, 125].map((seen) => maxIncoming!(seen))).toEqual([
      100, 40, 1, 25, 24, 1, 25,
    ]);
    expect(capacity({ tokens: 30, step: 8 })).toBe(30);
    expect(capacity({ tokens: Number.POSITIVE_INFINITY, step: 8 })).toBe(100);
    for (const tokens of [1, 2, 3, 5, 7, 30, 31]) {
      for (let seen = 0; seen < 100; seen++) {
        const most = window({ tokens }).maxIncoming!(seen);
        expect(most).toBeGreaterThanOrEqual(1);
        expect(most).toBeLessThanOrEqual(tokens);
      }
    }
  });

  it("refuses windows that are none", () => {
    for (const tokens of [0, -1, 1.5, Number.NaN, "4" as unknown as number]) {
      expect(() => window({ tokens })).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    }
  });
});

describe("visible", () => {
  it("expires what the next token cannot see, then asks the inner policy about the rest", () => {
    const view = viewOf([0, 1, 2, 3, 4, 5], { nextPosition: 6 });
    expect(visible(4, full()).plan(view)).toEqual([{ kind: "expire", slots: [0, 1, 2] }]);
    expect(visible(4, window({ tokens: 3 })).plan(view)).toEqual([
      { kind: "expire", slots: [0, 1, 2] },
      { kind: "drop", slots: [3] },
    ]);
    expect(visible(7, full()).plan(view)).toEqual([]);
  });
});

describe("keepHighest", () => {
  const score = Float32Array.of(3, 1, 2, 9, 1);

  it("drops the lowest, of equals the older", () => {
    const view = viewOf([10, 14, 12, -1, 13]);
    expect(keepHighest(score, view, 4)).toEqual([]);
    expect(keepHighest(score, view, 3)).toEqual([{ kind: "drop", slots: [4] }]);
    expect(keepHighest(score, view, 1)).toEqual([{ kind: "drop", slots: [4, 1, 2] }]);
    expect(keepHighest(score, view, 0)).toEqual([{ kind: "drop", slots: [4, 1, 2, 0] }]);
  });

  it("refuses scores that are none", () => {
    expect(() => keepHighest(Float32Array.of(1), viewOf([0, 1]), 1)).toThrow(/1 slots where there are 2/);
    expect(() => keepHighest(Float32Array.of(1, Number.NaN), viewOf([0, 1]), 1)).toThrow(/slot 1 is NaN/);
  });

  it("asks for scores only when something must go", () => {
    let asked = 0;
    const policy = byScore({
      id: "test",
      tokens: 3,
      score(view) {
        asked++;
        return new Float32Array(view.positions.length);
      },
    });
    policy.plan(viewOf([0, 1]));
    expect(asked).toBe(0);
    expect(policy.plan(viewOf([0, 1, 2]))).toEqual([{ kind: "drop", slots: [0] }]);
    expect(asked).toBe(1);
  });
});

describe("resolvePolicy", () => {
  it("finds policies by name and by options", () => {
    expect(resolvePolicy("full")).toMatchObject({ id: "full" });
    expect(resolvePolicy({ policy: "window", tokens: 7 })).toMatchObject({ id: "window(tokens=7)" });
    const byLayer = resolvePolicy({
      policy: "perLayer",
      layers: [{ policy: "full" }, { policy: "window", tokens: 2 }],
    });
    if (typeof byLayer !== "function") throw new Error("A policy for each lane was wanted");
    expect(byLayer({ layer: 1, head: 0 }, 2).id).toBe("window(tokens=2)");
    const byHead = resolvePolicy({ policy: "perHead", heads: [[{ policy: "full" }]] });
    if (typeof byHead !== "function") throw new Error("A policy for each lane was wanted");
    expect(byHead({ layer: 0, head: 0 }, 2).id).toBe("full");
  });

  it("refuses what it does not know, listing what it does", () => {
    const wrong: [unknown, RegExp][] = [
      ["h3o", /"h3o".*"full", "window", "sinks", .*"perHead"/],
      [{ policy: "toString" }, /"toString"/],
      [null, /null/],
      [{ tokens: 3 }, /known are "auto", "full"/],
      [{ policy: "window", tokens: 3, sinks: 4 }, /no option "sinks"; it has tokens/],
      [{ policy: "sinks", window: 0 }, /window is 0; a whole number from 1/],
      [{ policy: "sinks", window: 8, sinks: -1 }, /sinks is -1; a whole number from 0/],
      [{ policy: "full", tokens: 3 }, /no option "tokens"; it has none/],
      ["window", /tokens is undefined/],
      [{ policy: "perLayer" }, /"layers"/],
      [{ policy: "perLayer", layers: [{ policy: "perLayer", layers: [] }] }, /not for one lane/],
    ];
    for (const [spec, message] of wrong) {
      const resolve = () => resolvePolicy(spec as Parameters<typeof resolvePolicy>[0]);
      expect(resolve).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
      expect(resolve).toThrow(message);
    }
  });
});

describe("parsePolicy", () => {
  it("reads names, a first option, options by name, and JSON", () => {
    expect(parsePolicy("full")).toEqual({ policy: "full" });
    expect(parsePolicy("window:512")).toEqual({ policy: "window", tokens: 512 });
    expect(parsePolicy("sinks:512")).toEqual({ policy: "sinks", window: 512 });
    expect(parsePolicy("sinks: sinks=2, window=30")).toEqual({ policy: "sinks", window: 30, sinks: 2 });
    const spec = { policy: "perLayer", layers: [{ policy: "full" }, { policy: "window", tokens: 8 }] };
    expect(parsePolicy(JSON.stringify(spec))).toEqual(spec);
    for (const text of ["auto", "full", "sinks:window=30,sinks=2", "h2o:heavy=8,recent=8,weigh=sum"]) {
      expect(formatPolicy(parsePolicy(text))).toBe(text);
    }
    expect(parsePolicy(formatPolicy(parsePolicy(JSON.stringify(spec))))).toEqual(spec);
  });

  it("refuses the rest, saying what is wanted", () => {
    const wrong: [string, RegExp][] = [
      ["none", /Unknown cache policy "none"; known are "auto", "full"/],
      ["full:3", /"3" stands where an option of cache policy "full"/],
      ["window:", /such as "window:tokens=N"/],
      ["window:4,5", /"5" stands where an option/],
      ["window:many", /tokens is "many"/],
      ["sinks:window=8,size=4", /no option "size"; it has window, sinks/],
      ["{policy", /not JSON/],
    ];
    for (const [text, message] of wrong) {
      expect(() => parsePolicy(text)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
      expect(() => parsePolicy(text)).toThrow(message);
    }
  });
});
