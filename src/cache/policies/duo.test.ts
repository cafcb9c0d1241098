import { describe, expect, it } from "vitest";
import { difference, TinyHost } from "../../../test/support/cache-runner.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import type { PolicyOfLane } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { type DuoOptions, duo } from "./duo.js";
import { full } from "./full.js";
import { sinks } from "./sinks.js";

// Two layers of four heads.
const GATES = [
  [0.9, 0, 0.2, 0.5],
  [0.4, 0.5, 0, 0],
];

function kept(policy: PolicyOfLane): string[] {
  const ids: string[] = [];
  for (let layer = 0; layer < 2; layer++) {
    for (let head = 0; head < 4; head++) {
      if (policy({ layer, head }, 2).id === "full") ids.push(`${layer}.${head}`);
    }
  }
  return ids;
}

describe("duo", () => {
  it("keeps everything in the share of the heads with the highest gates", () => {
    expect(kept(duo({ keep: 1 / 8 }, GATES))).toEqual(["0.0"]);
    expect(kept(duo({}, GATES))).toEqual(["0.0", "0.3", "1.0", "1.1"]);
    expect(kept(duo({ keep: 0 }, GATES))).toEqual([]);
    expect(kept(duo({ keep: 1 }, GATES))).toHaveLength(8);
    expect(duo({ sinks: 2, recent: 8 }, GATES)({ layer: 0, head: 1 }, 2).id).toBe(
      sinks({ window: 8, sinks: 2, positions: "original" }).id,
    );
  });

  it("treats heads of equal gates alike, and lets those stream whose gate is shut", () => {
    expect(kept(duo({ keep: 2 / 8 }, GATES))).toEqual(["0.0", "0.3", "1.1"]);
    expect(kept(duo({ keep: 7 / 8 }, GATES))).toEqual(["0.0", "0.2", "0.3", "1.0", "1.1"]);
    expect(
      kept(
        duo(
          {},
          GATES.map((heads) => heads.map(() => 1)),
        ),
      ),
    ).toHaveLength(8);
    expect(
      kept(
        duo(
          {},
          GATES.map((heads) => heads.map(() => 0)),
        ),
      ),
    ).toEqual([]);
  });

  it("says how to have gates where there are none, and refuses what cannot be", () => {
    expect(() => duo({}, null)({ layer: 0, head: 0 }, 2)).toThrow(/millrace heads --method duo/);
    expect(() => duo({ keep: 1.5 }, GATES)).toThrow(/keep is 1.5; a number from 0 to 1/);
    expect(() => duo({ recent: 0 }, GATES)).toThrow(/recent is 0; a whole number from 1/);
    expect(() => duo({ sinks: -1 }, GATES)).toThrow(/sinks is -1/);
  });
});

describe("duo on a model", () => {
  const LENGTH = 60;
  /** Two layers of two heads: logits of the last tokens of a stream. */
  async function logits(options: DuoOptions | null, gate: number, length: number): Promise<Float32Array[]> {
    const host = await TinyHost.open("llama", createReference());
    const gates = host.tape.kv.map(({ numKvHeads }) => new Array<number>(numKvHeads).fill(gate));
    const policy = options ? duo(options, gates) : full();
    const layout = planLayout({ kv: host.tape.kv, policy, codec: "f32", step: 16, pageTokens: 16 });
    const runner = await host.runner(layout, pagesFor(layout, LENGTH));
    return runner.run(runner.open(), tinyPrompt(LENGTH).slice(0, length));
  }

  it("is the full cache while all gates are open, and while a stream is short", async () => {
    // Whole blocks, so that nothing goes before the 21st token comes.
    const streaming = { keep: 0.5, sinks: 4, recent: 16 };
    const all = await logits(null, 1, LENGTH);
    expect(difference(await logits(streaming, 1, LENGTH), all)).toBe(0);
    expect(difference(await logits(streaming, 0, 20), all.slice(0, 20))).toBeLessThan(2e-4);
    expect(difference(await logits(streaming, 0, LENGTH), all)).toBeGreaterThan(0.01);
  });
});
