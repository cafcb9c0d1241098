import { describe, expect, test } from "vitest";
import { describeBackend } from "../../test/conformance/index.js";
import { memoryCheckpoint } from "../formats/memory.js";
import { TapeBuilder } from "../tape/tape.js";
import type { Program, Step } from "./contract.js";
import { createNull, nullLogit } from "./null.js";

const computes = "the null backend computes nothing";
describeBackend("null", createNull, {
  skip: {
    embed: computes,
    rmsNorm: computes,
    matmul: computes,
    rope: computes,
    append: computes,
    attention: computes,
    glu: computes,
    lowRank: computes,
    add: computes,
    select: computes,
    experts: computes,
    chunkedPrefill: "its logits hang on token and position alone; batchInvariance says all there is to say",
    pagePlacement: computes,
    ownPages: computes,
    positionShift: computes,
  },
});

const VOCABULARY = 1000;

async function program(maxTokens: number): Promise<Program> {
  const tape = new TapeBuilder();
  const slices = [{ tensor: "absent", rowStart: 0, rowCount: VOCABULARY }];
  const weight = tape.weight({ slices, type: "Q4_0", rows: VOCABULARY, columns: 64, experts: 1 });
  const x = tape.embed(weight);
  const finished = tape.finish(tape.matmul(tape.select(x), weight));
  const backend = createNull();
  const limits = { maxTokens, maxOutputs: maxTokens, kv: { pageBytes: 64, groups: [] } };
  expect(backend.plan(finished, limits).weightBytes).toBe(0);
  return backend.compile(finished, await backend.load(finished, memoryCheckpoint({})), limits);
}

const step = (tokens: number[], positions: number[], outputs: number[]): Step => ({
  tokens: Int32Array.from(tokens),
  positions: Int32Array.from(positions),
  outputs: Int32Array.from(outputs),
  spans: [{ start: 0, count: tokens.length, views: [] }],
  slots: [],
  rotations: new Float64Array(0),
  arena: createNull().allocate(64),
});

describe("null backend", () => {
  test("reads no weight, and its logits are the hash of token, position and candidate", async () => {
    const run = await program(4);
    await run.run(step([5, 6, 7], [0, 1, 2], [0, 2]));
    const logits = run.logits();
    expect(logits).toHaveLength(2 * VOCABULARY);
    for (const v of [0, 1, 500, VOCABULARY - 1]) {
      expect(logits[v]).toBe(nullLogit(5, 0, v));
      expect(logits[VOCABULARY + v]).toBe(nullLogit(7, 2, v));
    }
  });

  test("greedy text wanders: no token or position always leads to the same next one", async () => {
    const run = await program(1);
    const seen = new Set<number>();
    let token = 1;
    for (let position = 0; position < 200; position++) {
      await run.run(step([token], [position], [0]));
      const logits = run.logits();
      token = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
      seen.add(token);
    }
    expect(seen.size).toBeGreaterThan(150);
  });

  test("logits are spread evenly over 0 to 1", () => {
    const bins = new Array<number>(10).fill(0);
    for (let v = 0; v < 10_000; v++) bins[Math.floor(nullLogit(v % 7, v % 11, v) * 10)]!++;
    for (const count of bins) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });
});
