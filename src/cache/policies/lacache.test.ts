import { describe, expect, it } from "vitest";
import { viewOf } from "../../../test/support/lane-view.js";
import { lacache, ladderOf } from "./lacache.js";

/** Positions that every layer holds after each token of a stream. */
function* stream(tokens: number, numLayers: number, length: number) {
  const policies = Array.from({ length: numLayers }, (_, layer) =>
    lacache({ tokens, sinks: 0 })({ layer, head: 0 }, numLayers),
  );
  const held: number[][] = policies.map(() => []);
  for (let seen = 0; seen < length; seen++) {
    for (const [layer, policy] of policies.entries()) {
      const positions = held[layer]!;
      for (const step of policy.plan(viewOf(positions, { seen, nextPosition: seen }))) {
        if (step.kind === "settle") continue;
        if (step.kind !== "drop") throw new Error(step.kind);
        const gone = new Set(Array.from(step.slots, (slot) => positions[slot]));
        held[layer] = positions.filter((position) => !gone.has(position));
      }
      held[layer]!.push(seen);
    }
    yield held;
  }
}

describe("lacache", () => {
  it("has the ladders of the paper: as many tokens in every layer, every token in some", () => {
    expect(ladderOf(32, 16, 0)).toMatchObject({ group: 2, kept: 1 });
    expect(ladderOf(32, 8, 4)).toMatchObject({ group: 7, kept: 2 });
    expect(ladderOf(2, 1, 0)).toMatchObject({ group: 2, kept: 1 });
    expect(ladderOf(4, 4, 2)).toMatchObject({ group: 1, kept: 1 });
    for (const [numLayers, span, overlap] of [
      [32, 8, 4],
      [32, 16, 0],
      [30, 7, 3],
      [12, 3, 1],
      [5, 2, 1],
    ] as const) {
      const { group, kept, from } = ladderOf(numLayers, span, overlap);
      const covered = new Set<number>();
      for (let layer = 0; layer < numLayers; layer++) {
        expect(from(layer)).toBeGreaterThanOrEqual(from(Math.max(0, layer - 1)));
        for (let i = 0; i < kept; i++) covered.add(from(layer) + i);
      }
      expect([...covered].sort((a, b) => a - b)).toEqual(Array.from({ length: group }, (_, i) => i));
    }
  });

  it("holds as many tokens in every layer, all of the last block, and never more than its budget", () => {
    for (const held of stream(40, 12, 1000)) {
      const seen = held[0]!.at(-1)! + 1;
      for (const positions of held) {
        expect(positions.length).toBe(held[0]!.length);
        expect(positions.length).toBeLessThanOrEqual(40);
        expect(positions.slice(-10)).toEqual(
          Array.from(positions.slice(-10), (_, i) => seen - Math.min(seen, 10) + i),
        );
      }
    }
  });

  it("remembers more tokens than its budget over all layers, the recent ones all, old ones ever more thinly", () => {
    let last: number[][] = [];
    for (const held of stream(64, 12, 5000)) last = held.map((positions) => [...positions]);
    const known = new Set(last.flat());
    const share = (from: number, to: number) => {
      let count = 0;
      for (let p = 5000 - to; p < 5000 - from; p++) if (known.has(p)) count++;
      return count / (to - from);
    };
    expect(share(0, 64)).toBe(1);
    expect(known.size).toBeGreaterThan(1.5 * 64);
    expect(share(64, 256)).toBeGreaterThan(share(1024, 4096));
  });

  it("lets the oldest go where one layer is all there is", () => {
    const policy = lacache({ tokens: 8, sinks: 0 })({ layer: 0, head: 0 }, 1);
    expect(policy.plan(viewOf([0, 1, 2, 3, 4, 5, 6, 7]))).toEqual([
      { kind: "drop", slots: [0, 1] },
      { kind: "settle" },
    ]);
  });

  it("refuses what is out of range", () => {
    expect(() => lacache({ tokens: 4 })).toThrow(/tokens is 4; a whole number from 8/);
    expect(() => lacache({ tokens: 40, span: 2, overlap: 2 })).toThrow(
      /overlap is 2; a whole number from 0 to 1/,
    );
  });
});
