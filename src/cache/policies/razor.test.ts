import { describe, expect, it } from "vitest";
import { viewOf } from "../../../test/support/lane-view.js";
import { compensated } from "./compensated.js";
import { razor } from "./razor.js";

const ascending = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("compensated", () => {
  it("makes one token, the mean, of all that it drops, counting it as many", () => {
    const policy = compensated({ window: 11, sinks: 0 });
    const [first] = policy.plan(viewOf(ascending(12)));
    expect(first).toMatchObject({ kind: "merge", into: 0, slots: [1, 2] });
    expect(first?.kind === "merge" && [...first.weights].map((x) => 3 * x)).toEqual(
      [1, 1, 1].map((x) => expect.closeTo(x)),
    );
    // Later the token that stands for 10 takes two more in.
    const view = viewOf([0, ...ascending(11).map((i) => 10 + i)], { seen: 24, counts: [10] });
    const [later] = policy.plan(view);
    expect(later).toMatchObject({ kind: "merge", into: 0, slots: [1, 2] });
    expect(later?.kind === "merge" && [...later.weights]).toEqual(
      [10, 1, 1].map((x) => expect.closeTo(x / 12)),
    );
  });
});

describe("razor", () => {
  // Two layers of four heads.
  const scores = {
    echo: [
      [0, 0, 0.9, 0],
      [0, 0.1, 0, 0],
    ],
    induction: [
      [0.8, 0, 0, 0.1],
      [0, 0, 0.7, 0.2],
    ],
  };
  const kept = (policy: ReturnType<typeof razor>) => {
    const ids: string[] = [];
    for (let layer = 0; layer < 2; layer++) {
      for (let head = 0; head < 4; head++) {
        if (policy({ layer, head }, 2).id === "full") ids.push(`${layer}.${head}`);
      }
    }
    return ids;
  };

  it("keeps everything for the heads that retrieve, by echo or by induction", () => {
    expect(kept(razor({ window: 8 }, scores))).toEqual(["0.0", "0.2", "1.2"]);
    expect(kept(razor({ window: 8, echo: 0, induction: 0.25 }, scores))).toEqual(["0.0", "1.2"]);
    expect(kept(razor({ window: 8, echo: 0, induction: 1 }, scores))).toHaveLength(8);
    expect(kept(razor({ window: 8, echo: 0, induction: 0 }, scores))).toEqual([]);
    expect(razor({ window: 8, sinks: 2 }, scores)({ layer: 0, head: 1 }, 2).id).toBe(
      compensated({ window: 8, sinks: 2 }).id,
    );
  });

  it("says how to have the scores where there are none", () => {
    const policy = razor({ window: 8 }, null);
    expect(() => policy({ layer: 0, head: 0 }, 2)).toThrow(/millrace heads/);
    expect(() => razor({ window: 8, echo: 2 }, scores)).toThrow(/echo is 2; a number from 0 to 1/);
    expect(() => razor({ window: 1 }, scores)).toThrow(/window is 1; a whole number from 2/);
  });
});
