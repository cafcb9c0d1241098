import { describe, expect, it } from "vitest";
import { viewOf } from "../../../test/support/lane-view.js";
import { h2o } from "./h2o.js";

describe("h2o", () => {
  // Tokens 0 to 5 of a stream under heavy = 4, recent = 2, whose attention (row: query) was
  //   1
  //   .5 .5
  //   .2 .1 .7
  //   .1 .1 .6 .2
  //   .1 .1 .1 .1 .6
  //   .1 .1 .2 .3 .1 .2
  const sums = [2, 0.9, 1.6, 0.6, 0.7, 0.2];

  it("drops the least attended of those that are not recent", () => {
    const bySum = h2o({ heavy: 4, recent: 2, weigh: "sum" });
    expect(bySum.plan(viewOf([0, 1, 2, 3, 4, 5], { mass: sums }))).toEqual([{ kind: "drop", slots: [3] }]);
    // By the mean over the 6, 5, 4, 3, 2, 1 queries that saw each: 0.33, 0.18, 0.4, 0.2, 0.35 and the recent one.
    const byMean = h2o({ heavy: 4, recent: 2 });
    expect(byMean.plan(viewOf([0, 1, 2, 3, 4, 5], { mass: sums }))).toEqual([{ kind: "drop", slots: [1] }]);
  });

  it("finds tokens by position, not by slot", () => {
    const shuffled = [5, 3, 0, 4, 1, 2];
    const view = viewOf(shuffled, { mass: shuffled.map((position) => sums[position]!) });
    expect(h2o({ heavy: 4, recent: 2, weigh: "sum" }).plan(view)).toEqual([{ kind: "drop", slots: [1] }]);
  });

  it("keeps as many heavy tokens as it says, however few these are beside the recent ones", () => {
    const policy = h2o({ heavy: 2, recent: 40 });
    const positions = Array.from({ length: 42 }, (_, i) => i);
    const view = viewOf(positions, { seen: 50, mass: positions.map((p) => (p === 3 || p === 7 ? 9 : 0)) });
    const [step] = policy.plan(view);
    expect(step).toMatchObject({ kind: "drop", slots: [0, 1, 2, 4, 5, 6, 8, 9, 10, 11] });
  });

  it("refuses budgets that are none", () => {
    for (const [options, message] of [
      [{ heavy: 0, recent: 4 }, /heavy is 0/],
      [{ heavy: 4, recent: 1.5 }, /recent is 1.5/],
      [{ heavy: 4, recent: 4, weigh: "max" }, /weigh is "max"; one of "sum", "mean"/],
    ] as const) {
      expect(() => h2o(options as Parameters<typeof h2o>[0])).toThrow(message);
    }
  });
});
