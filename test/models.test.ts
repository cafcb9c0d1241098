/** The architectures on the reference backend: golden tokens, windows, files. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createReference } from "../src/backends/reference/index.js";
import { openCheckpoint } from "../src/formats/open.js";
import { describeGoldenModels } from "./support/golden-models.js";
import { stories } from "./support/outside.js";
import { largestDifference, TapeRunner } from "./support/run-tape.js";
import {
  tinyCheckpoint,
  tinyModel,
  tinyPrompt,
  writeTinyGguf,
  writeTinySafetensors,
} from "./support/tiny-models.js";

const backend = createReference();

describeGoldenModels("reference", createReference);

describe("sliding windows", () => {
  it("hides what lies before the window of every layer, and nothing nearer", async () => {
    const model = tinyModel("mistral");
    for (const format of ["gguf", "safetensors"] as const) {
      using runner = await TapeRunner.open(backend, tinyCheckpoint(model, format), { capacity: 64 });
      const prompt = tinyPrompt(48);
      const first = await runner.evaluate(prompt);
      runner.reset();
      const second = await runner.evaluate([prompt[0]! + 5, ...prompt.slice(1)]);
      const differences = first.map((logits, t) => largestDifference(logits, second[t]!));
      // Two layers of 16: token 0 reaches position 15 in the first and 30 through the second.
      expect(differences.slice(0, 31).every((difference) => difference > 0)).toBe(true);
      expect(differences.slice(31).every((difference) => difference === 0)).toBe(true);
    }
  });
});

describe("files", () => {
  it("reads the same model from files as from memory", async () => {
    const folder = await mkdtemp(join(tmpdir(), "millrace-models-"));
    try {
      const prompt = tinyPrompt(12);
      for (const name of ["mixtral", "gemma3", "llama-3.1"] as const) {
        const model = tinyModel(name);
        using fromMemory = await TapeRunner.open(backend, tinyCheckpoint(model, "gguf"));
        const expected = await fromMemory.evaluate(prompt);
        for (const path of [await writeTinyGguf(model, folder), await writeTinySafetensors(model, folder)]) {
          await using checkpoint = await openCheckpoint(path);
          using fromFile = await TapeRunner.open(backend, checkpoint);
          const logits = await fromFile.evaluate(prompt);
          for (const [t, row] of logits.entries()) {
            expect(largestDifference(row, expected[t]!), `${path}, token ${t}`).toBeLessThan(1e-4);
          }
        }
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it.skipIf(!stories.here)(
    "tells stories260K's golden story (needs it: test/support/outside.ts)",
    async () => {
      const { prompt, greedy_ids: expected } = stories.golden();
      await using checkpoint = await openCheckpoint(stories.path);
      using runner = await TapeRunner.open(backend, checkpoint, { capacity: 256 });
      const { ids } = await runner.greedy(prompt, expected.length - prompt.length);
      expect([...prompt, ...ids]).toEqual(expected);
    },
  );
});
