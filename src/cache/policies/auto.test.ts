import { describe, expect, it } from "vitest";
import { type AutoQuestion, chooseAuto } from "./auto.js";
import type { PolicySpec } from "./resolve.js";

/** A budget of so many tokens a lane, of four lanes of which razor keeps one whole. */
const budget = (tokens: number, more: Partial<AutoQuestion> = {}): AutoQuestion => {
  const { context = 1024 } = more;
  const takes = (policy: PolicySpec) =>
    policy.policy === "sinks"
      ? 4 * (policy.window + 4)
      : policy.policy === "razor"
        ? context + 3 * (policy.window + 5)
        : 4 * context;
  return { endless: false, context, hasHeads: false, fits: (policy) => takes(policy) <= 4 * tokens, ...more };
};

describe("chooseAuto", () => {
  it("keeps everything where that fits and the stream ends", () => {
    expect(chooseAuto(budget(1024)).policy).toEqual({ policy: "full" });
    expect(chooseAuto(budget(1e6, { endless: true })).policy).toEqual({
      policy: "sinks",
      window: 1020,
      sinks: 4,
    });
  });

  it("takes the longest window beside the sinks that fits", () => {
    expect(chooseAuto(budget(300))).toEqual({
      policy: { policy: "sinks", window: 296, sinks: 4 },
      why: "Not all tokens fit: the first 4 tokens and the last 296 are kept.",
    });
    expect(chooseAuto(budget(300, { endless: true })).why).toMatch(/may be endless.*last 296/);
    expect(chooseAuto(budget(2)).policy).toEqual({ policy: "sinks", window: 1, sinks: 4 });
  });

  it("keeps what retrieving heads see where their scores are known and they fit", () => {
    expect(chooseAuto(budget(512, { hasHeads: true })).policy).toEqual({
      policy: "razor",
      window: 336,
      sinks: 4,
    });
    expect(chooseAuto(budget(300, { hasHeads: true })).policy).toMatchObject({ policy: "sinks" });
    expect(chooseAuto(budget(512, { hasHeads: true, endless: true })).policy).toMatchObject({
      policy: "sinks",
    });
  });
});
