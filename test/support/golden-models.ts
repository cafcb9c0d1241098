/**
 * Golden tests of every architecture, for any backend:
 *
 *   describeGoldenModels("native", () => createNative({ threads: 2 }));
 *
 * What is expected is what llama.cpp said about the same seeded weights (test/fixtures/models/, written by
 * test/oracles/models.oracle.ts).
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backends/contract.js";
import { readModelFixture } from "./model-fixtures.js";
import { argmax, largestDifference, logSoftmax, TapeRunner } from "./run-tape.js";
import { TINY_NAMES, type TinyName, tinyCheckpoint, tinyModel } from "./tiny-models.js";

export interface GoldenOptions {
  /** Factor on the bounds below (default 1); say why beside it. */
  readonly bound?: number;
}

/**
 * Largest difference of a logprob to llama.cpp's, which sums in single precision; fixtures are rounded to 1e-5.
 * Gemma's GELU is read there from a table of half-precision values.
 */
const BOUND: Partial<Record<TinyName, number>> = { gemma3: 1.5e-2 };
const DEFAULT_BOUND = 1e-4;

/** Largest difference of a logit between two ways to the same tokens, where sums may run in another order. */
const SAME = 1e-4;

/** llama.cpp knows no window for "llama" files: that recipe has no fixture. */
const GOLDEN = TINY_NAMES.filter((name) => name !== "mistral");

export function describeGoldenModels(
  backendName: string,
  create: () => Backend | Promise<Backend>,
  options: GoldenOptions = {},
): void {
  const { bound = 1 } = options;
  describe(`golden models on ${backendName}`, () => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await create();
    });
    afterAll(() => backend.dispose());

    describe.each(GOLDEN)("%s", (name) => {
      const fixture = readModelFixture(name);
      const model = tinyModel(name, fixture.seed);
      const open = (format: "gguf" | "safetensors") =>
        TapeRunner.open(backend, tinyCheckpoint(model, format), { context: fixture.context, capacity: 64 });

      it("predicts and continues as llama.cpp does", async () => {
        using runner = await open("gguf");
        const prompt = await runner.evaluate(fixture.prompt);
        expect(prompt.map(argmax)).toEqual(fixture.predicted);
        runner.reset();
        const { ids, logits } = await runner.greedy(fixture.prompt, fixture.greedy.length);
        expect(ids).toEqual(fixture.greedy);
        let worst = 0;
        for (const [step, top] of fixture.top.entries()) {
          const ours = logSoftmax(logits[step]!);
          for (const [id, logprob] of top) worst = Math.max(worst, Math.abs(ours[id]! - logprob));
        }
        expect(worst).toBeLessThan(bound * (BOUND[name] ?? DEFAULT_BOUND));
      });

      it("says the same from safetensors, and token by token", async () => {
        using gguf = await open("gguf");
        using safetensors = await open("safetensors");
        const atOnce = await gguf.evaluate(fixture.prompt);
        gguf.reset();
        const cached = await gguf.evaluate(fixture.prompt, 1);
        const other = await safetensors.evaluate(fixture.prompt, 7);
        for (const [t, logits] of atOnce.entries()) {
          expect(largestDifference(cached[t]!, logits), `token ${t}, cached`).toBeLessThan(bound * SAME);
          expect(largestDifference(other[t]!, logits), `token ${t}, safetensors`).toBeLessThan(bound * SAME);
        }
      });
    });
  });
}
