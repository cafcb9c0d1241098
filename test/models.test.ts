/**
 * Golden tests of the architectures on the reference backend, against what llama.cpp said about the same seeded
 * weights (test/fixtures/models/, written by test/oracles/models.oracle.ts).
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { createReference } from "../src/backends/reference/index.js";
import { openGguf } from "../src/formats/gguf.js";
import { readModelFixture } from "./support/model-fixtures.js";
import { argmax, logSoftmax, TapeRunner } from "./support/run-tape.js";
import {
  TINY_NAMES,
  type TinyName,
  tinyCheckpoint,
  tinyModel,
  tinyPrompt,
  writeTinyGguf,
} from "./support/tiny-models.js";

const backend = createReference();

/**
 * Largest difference of a logprob to llama.cpp's, which sums in single precision, with fixtures rounded to 1e-5.
 * Gemma's GELU is read there from a table of half-precision values.
 */
const BOUND: Partial<Record<TinyName, number>> = { gemma3: 2e-2 };
const DEFAULT_BOUND = 5e-4;

/** llama.cpp knows no window for "llama" files; the window has a test of its own below. */
const GOLDEN = TINY_NAMES.filter((name) => name !== "mistral");

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
    expect(worst).toBeLessThan(BOUND[name] ?? DEFAULT_BOUND);
  });

  it("says the same from safetensors, and token by token", async () => {
    using gguf = await open("gguf");
    using safetensors = await open("safetensors");
    const atOnce = await gguf.evaluate(fixture.prompt);
    gguf.reset();
    const cached = await gguf.evaluate(fixture.prompt, 1);
    const other = await safetensors.evaluate(fixture.prompt, 7);
    for (const [t, logits] of atOnce.entries()) {
      expect(largestDifference(cached[t]!, logits), `token ${t}, cached`).toBeLessThan(1e-4);
      expect(largestDifference(other[t]!, logits), `token ${t}, safetensors`).toBeLessThan(1e-3);
    }
  });
});

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

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0);
}
