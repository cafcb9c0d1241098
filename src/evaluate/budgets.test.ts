import { describe, expect, it } from "vitest";
import { resolvePolicy } from "../cache/policies/resolve.js";
import { UNKNOWN_HEADS } from "../cache/policies/split.js";
import { policiesOfSize, splitPolicies } from "./budgets.js";

const NOTHING = { of: null, heads: UNKNOWN_HEADS };
const ENDLESS = { tokens: Number.POSITIVE_INFINITY, step: 64 };

describe("splitPolicies", () => {
  it("tells options from policies", () => {
    expect(splitPolicies("full,sinks:window=8,sinks=4, window:512,h2o:heavy=3,recent=5,sinks")).toEqual([
      "full",
      "sinks:window=8,sinks=4",
      "window:512",
      "h2o:heavy=3,recent=5",
      "sinks",
    ]);
    expect(splitPolicies('{"policy":"window","tokens":9}')).toEqual(['{"policy":"window","tokens":9}']);
  });
});

describe("policiesOfSize", () => {
  it.each(["window", "sinks", "h2o", "keyformer", "snapkv", "kvmerger", "compensated"])(
    "cuts %s to keep so many tokens",
    (name) => {
      for (const tokens of [16, 181, 900]) {
        const [{ policy, budget }] = policiesOfSize(name, [tokens], NOTHING) as [never];
        const resolved = resolvePolicy(policy);
        if (typeof resolved === "function") throw new Error("one policy for all lanes is wanted");
        expect([budget, resolved.capacity(ENDLESS)]).toEqual([tokens, tokens]);
      }
    },
  );

  it("cuts razor so that its heads keep so many tokens on average", () => {
    const heads = { scores: { echo: [[0.9, 0, 0, 0]], induction: [[0.8, 0, 0, 0]] }, gates: null };
    const [{ policy }] = policiesOfSize("razor", [450], { of: 900, heads }) as [never];
    const resolved = resolvePolicy(policy, heads);
    if (typeof resolved !== "function") throw new Error("policies by lane are wanted");
    const capacity = (head: number) => resolved({ layer: 0, head }, 1).capacity({ tokens: 900, step: 64 });
    expect([0, 1, 2, 3].reduce((sum, head) => sum + capacity(head), 0) / 4).toBeCloseTo(450, 0);
    for (const sizing of [NOTHING, { of: 900, heads: UNKNOWN_HEADS }, { of: null, heads }]) {
      expect(() => policiesOfSize("razor", [450], sizing)).toThrow(/razor:window/);
    }
    expect(() => policiesOfSize("razor", [230], { of: 900, heads })).toThrow(/25 %/);
    const unfit: string[] = [];
    const fit = policiesOfSize("razor,sinks", [230, 450], { of: 900, heads }, ({ message }) =>
      unfit.push(message),
    );
    expect(fit.map(({ name, budget }) => [name, budget])).toEqual([
      ["razor", 450],
      ["sinks", 230],
      ["sinks", 450],
    ]);
    expect(unfit).toEqual([expect.stringContaining("razor cannot be cut to 230 of 900 tokens")]);
  });

  it("gives thin keys the bytes of so many tokens with whole ones", () => {
    expect(policiesOfSize("think", [180], NOTHING)).toEqual([
      {
        name: "think",
        policy: { policy: "think", keep: 0.6, of: { policy: "snapkv", tokens: 225 } },
        budget: 180,
      },
    ]);
  });

  it("cuts duo to whole heads and a window of the others that keep so many tokens on average", () => {
    const heads = { scores: null, gates: [[0.9, 0.1, 0.6, 0, 0.3, 0.2]] };
    for (const [tokens, whole] of [
      [450, 2],
      [180, 1],
      [880, 5],
    ] as const) {
      const [{ policy }] = policiesOfSize("duo", [tokens], { of: 900, heads }) as [never];
      const resolved = resolvePolicy(policy, heads);
      if (typeof resolved !== "function") throw new Error("policies by lane are wanted");
      const lanes = [0, 1, 2, 3, 4, 5].map((head) => resolved({ layer: 0, head }, 1));
      const kept = lanes.map((lane) => lane.capacity({ tokens: 900, step: 64 }));
      expect(kept.reduce((sum, each) => sum + each, 0) / 6).toBeCloseTo(tokens, -1);
      expect(lanes.filter(({ id }) => id === "full")).toHaveLength(whole);
    }
    for (const sizing of [NOTHING, { of: 900, heads: UNKNOWN_HEADS }, { of: null, heads }]) {
      expect(() => policiesOfSize("duo", [450], sizing)).toThrow(/duo:keep/);
    }
  });

  it("has one for each budget, and those with a size of their own once", () => {
    const found = policiesOfSize("full,window,sinks:window=8", [100, 50], NOTHING);
    expect(found.map(({ name, budget }) => [name, budget])).toEqual([
      ["full", null],
      ["window", 100],
      ["window", 50],
      ["sinks:window=8", null],
    ]);
  });

  it("refuses budgets that are too small, and unknown names", () => {
    const refused = expect.objectContaining({ code: "INVALID_ARGUMENT" });
    expect(() => policiesOfSize("sinks", [15], NOTHING)).toThrow(refused);
    expect(() => policiesOfSize("sink", [100], NOTHING)).toThrow(refused);
  });
});
