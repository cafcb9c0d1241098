import { describe, expect, it } from "vitest";
import { type PolicySpec, resolvePolicy } from "../cache/policies/resolve.js";
import type { ModelHeads } from "../cache/policies/split.js";
import { drawHeads, headByHead } from "./drawn-heads.js";

const kv = Array.from({ length: 22 }, (_, layer) => ({ layer, numKvHeads: 4, headWidth: 64, window: null }));

/** By lane: what decides how it behaves. */
function ids(spec: PolicySpec, heads?: ModelHeads): string[] {
  const policyOf = resolvePolicy(spec, heads);
  if (typeof policyOf !== "function") throw new Error("policies by lane are wanted");
  return kv.flatMap(({ layer, numKvHeads }) =>
    Array.from({ length: numKvHeads }, (_, head) => policyOf({ layer, head }, kv.length).id),
  );
}

describe("drawHeads", () => {
  it("draws the same for the same seed, for every head, above 0 and at most 1", () => {
    const heads = drawHeads(kv, 1);
    expect(heads).toEqual(drawHeads(kv, 1));
    expect(heads).not.toEqual(drawHeads(kv, 2));
    for (const rows of [heads.scores?.echo, heads.scores?.induction, heads.gates]) {
      expect(rows?.map((row) => row.length)).toEqual(kv.map(({ numKvHeads }) => numKvHeads));
      for (const score of rows!.flat()) {
        expect(score).toBeGreaterThan(0);
        expect(score).toBeLessThanOrEqual(1);
      }
    }
  });
});

describe("headByHead", () => {
  it.each<PolicySpec>([
    { policy: "razor", window: 300 },
    { policy: "razor", window: 300, sinks: 9, echo: 0.1, induction: 0.3 },
    { policy: "duo" },
    { policy: "duo", keep: 0.25, sinks: 4, recent: 512 },
  ])("writes out for every head what it has by %j", (spec) => {
    const heads = drawHeads(kv, 1);
    const written = headByHead(spec, heads)!;
    expect(ids(written.policy)).toEqual(ids(spec, heads));
    expect([written.whole, written.lanes]).toEqual([
      ids(spec, heads).filter((id) => id === "full").length,
      88,
    ]);
    expect(written.whole).toBeGreaterThan(0);
  });

  it("leaves alone what treats all heads alike, and what is not known", () => {
    expect(headByHead({ policy: "sinks", window: 8 }, drawHeads(kv, 1))).toBeNull();
    expect(headByHead({ policy: "duo" }, { scores: drawHeads(kv, 1).scores, gates: null })).toBeNull();
  });
});
