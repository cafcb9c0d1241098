/** The bound on stalls, kept by the engine itself: a backend whose steps take known, noisy times on a clock of their own. */
import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import type { Step } from "../backends/contract.js";
import { createNull } from "../backends/null.js";
import { KvPool } from "../cache/pool.js";
import { composeScheduler } from "../scheduler/resolve.js";
import { Engine } from "./engine.js";
import { planModel } from "./load.js";
import type { RequestEnd } from "./request.js";

const STREAMS = 4;

/** Milliseconds that a step takes: weights are read once, rows cost, logits cost, and what is attended does. */
function costOf({ positions, outputs }: Step): number {
  let attended = 0;
  for (const position of positions) attended += position + 1;
  return 20 + 0.6 * positions.length + 2 * outputs.length + 0.0005 * attended;
}

/** Long prompts arrive while streams decode. Gaps between tokens of the streams, and what the engine says of them. */
async function serve(maxStallMs?: number) {
  const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
  const backend = createNull();
  const { tape, limits, layout, fit } = await planModel(checkpoint, backend, {
    sequences: STREAMS + 1,
    context: 512,
    cache: { policy: { policy: "full" }, codec: "f16" },
  });
  const weights = await backend.load(tape, checkpoint);
  const program = await backend.compile(tape, weights, { ...limits, kv: layout });
  const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: fit.cacheBytes });
  const random = new TestRandom(3);
  let now = 0;
  const engine = new Engine({
    program: {
      async run(step) {
        await program.run(step);
        now += costOf(step) * (0.9 + 0.2 * random.next());
      },
      logits: () => program.logits(),
      states: () => program.states(),
      read: (id) => program.read(id),
      dispose: () => program.dispose(),
    },
    pool,
    layout,
    ...composeScheduler(maxStallMs === undefined ? {} : { maxStallMs }),
    limits,
    vocabularySize: tape.logits.width,
    clock: () => now,
  });
  const gaps: number[] = [];
  const ended: RequestEnd[] = [];
  const submit = (id: number, promptTokens: number, count: number) => {
    let [left, lastAt] = [count, Number.NaN];
    engine.submit({
      id,
      prompt: new Int32Array(promptTokens).fill(id + 1),
      decoder: {
        outputs: "last",
        accept() {
          if (id < STREAMS && !Number.isNaN(lastAt)) gaps.push(now - lastAt);
          lastAt = now;
          const finish = --left === 0 ? "length" : null;
          return { next: finish ? null : id + 1, emission: null, finish };
        },
        flush: () => null,
      },
      maxCached: promptTokens + count,
      credit: 1,
      listener: {
        emit: () => {},
        end: (end) => ended.push(end),
        fail: (error) => {
          throw error;
        },
      },
    });
  };
  for (let id = 0; id < STREAMS; id++) submit(id, 8, 200);
  for (let i = 0; i < 4; i++) {
    for (let step = 0; step < 20; step++) await engine.step();
    submit(STREAMS + i, 450, 2);
  }
  while (await engine.step());
  const { stalls } = engine.usage();
  return { longest: Math.max(...gaps), ended, stalls };
}

describe("the bound on stalls", () => {
  it("is kept by what steps were measured to take", async () => {
    const { longest, ended, stalls } = await serve(80);
    expect(ended).toHaveLength(STREAMS + 4);
    expect(longest).toBeLessThanOrEqual(80);
    expect(stalls).toMatchObject({ boundMs: 80, exceeded: 0, hopeless: 0 });
    expect(stalls!.steps).toBeGreaterThan(20);
  });

  it("is not kept without: a prompt's chunk is as long as a step allows", async () => {
    const { longest, ended, stalls } = await serve();
    expect(ended).toHaveLength(STREAMS + 4);
    expect(longest).toBeGreaterThan(100);
    expect(stalls).toBeNull();
  });
});
