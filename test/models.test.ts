/** The architectures on the reference backend: golden tokens, windows, files. */
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { createReference } from "../src/backends/reference/index.js";
import { openGguf } from "../src/formats/gguf.js";
import { describeGoldenModels } from "./support/golden-models.js";
import { largestDifference, TapeRunner } from "./support/run-tape.js";
import { tinyCheckpoint, tinyModel, tinyPrompt, writeTinyGguf } from "./support/tiny-models.js";

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
  it("reads the same model from a GGUF file as from memory", async () => {
    const folder = await mkdtemp(join(tmpdir(), "millrace-models-"));
    try {
      const model = tinyModel("qwen3moe");
      await using checkpoint = await openGguf(await writeTinyGguf(model, folder));
      using fromFile = await TapeRunner.open(backend, checkpoint);
      using fromMemory = await TapeRunner.open(backend, tinyCheckpoint(model, "gguf"));
      const prompt = tinyPrompt(12);
      expect(await fromFile.evaluate(prompt)).toEqual(await fromMemory.evaluate(prompt));
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  const stories = resolve(import.meta.dirname, "../../shared/data/models/stories260K");
  it.skipIf(!existsSync(stories))("tells stories260K's golden story (needs ../shared)", async () => {
    const golden = JSON.parse(readFileSync(join(stories, "golden.json"), "utf8")) as {
      stories260K: { prompt: number[]; greedy_ids: number[] };
    };
    const { prompt, greedy_ids: expected } = golden.stories260K;
    await using checkpoint = await openGguf(join(stories, "stories260K.gguf"));
    using runner = await TapeRunner.open(backend, checkpoint, { capacity: 256 });
    const { ids } = await runner.greedy(prompt, expected.length - prompt.length);
    expect([...prompt, ...ids]).toEqual(expected);
  });
});
