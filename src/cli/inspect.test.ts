import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import { tinyModel, writeTinyGguf, writeTinySafetensors } from "../../test/support/tiny-models.js";
import { openParameters } from "../engine/open.js";
import { string } from "../formats/gguf-values.js";
import { memoryCheckpoint } from "../formats/memory.js";
import { print } from "./inspect/print.js";
import { examine } from "./inspect/report.js";

const tiny = tinyModel("llama");
const sizes = Object.values(tiny.tensors).map(({ data }) => data.length);
const parameters = sizes.reduce((sum, size) => sum + size, 0);

describe.skipIf(!built)("millrace inspect (needs npm run build)", () => {
  let folder: string;
  let model: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-inspect-"));
    model = await writeTinyGguf(tiny, folder, { type: "Q8_0" });
  });
  afterAll(() => rm(folder, { recursive: true }));

  const inspect = (...args: string[]) => cli(["inspect", "--backend", "reference", ...args]);

  it("tells what a file holds and needs", async () => {
    const { code, stdout, stderr } = await inspect(model, "--json");
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      path: model,
      format: "gguf",
      architecture: "llama",
      parameters,
      config: {
        numLayers: 2,
        embeddingWidth: 64,
        numHeads: 4,
        numKvHeads: 2,
        headWidth: 16,
        contextLength: 512,
      },
      tokenizer: { kind: "gguf", model: "llama", vocabularySize: 320, bosId: 1, chatFormat: "plain" },
      metadata: { "general.architecture": "llama", "tokenizer.ggml.tokens": { length: 320 } },
      memory: {
        fits: true,
        context: 512,
        sequences: 1,
        cacheBytesPerToken: 2 * 2 * 16 * 2 * 2,
        budgetBytes: null,
      },
      problems: [],
    });
    expect(report.metadata["tokenizer.ggml.tokens"].first).toHaveLength(8);
    expect(report.memory.cacheBytes).toBe(512 * report.memory.cacheBytesPerToken);
    const counts = report.tensorTypes.map(({ type, tensors }: { type: string; tensors: number }) => [
      type,
      tensors,
    ]);
    expect(new Set(counts.map(([type]: [string]) => type))).toEqual(new Set(["Q8_0", "F32"]));
    expect(counts.reduce((sum: number, [, n]: [string, number]) => sum + n, 0)).toBe(sizes.length);
    expect(report).not.toHaveProperty("tensors");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  it("lists tensors where it is asked to", async () => {
    const { stdout } = await inspect(model, "--json", "--tensors");
    const { tensors } = JSON.parse(stdout);
    expect(tensors).toHaveLength(sizes.length);
    expect(tensors).toContainEqual({
      name: "blk.0.attn_k.weight",
      type: "Q8_0",
      shape: [32, 64],
      bytes: 32 * 68,
    });
    const text = (await inspect(model, "--tensors")).stdout;
    expect(text).toMatch(/blk\.0\.attn_k\.weight +Q8_0 +32 x 64 +2\.13 KiB/);
  });

  it("answers for the context, codec and number of requests that are asked for", async () => {
    const { stdout } = await inspect(
      model,
      "--json",
      "--context",
      "256",
      "--codec",
      "f32",
      "--sequences",
      "3",
    );
    expect(JSON.parse(stdout).memory).toMatchObject({
      context: 256,
      cacheBytes: 3 * 256 * 512,
      cacheBytesPerToken: 512,
    });
    const windowed = await inspect(model, "--json", "--cache", "window:32");
    expect(JSON.parse(windowed.stdout).memory).toMatchObject({ fits: true, context: null });
  });

  it("says that it does not fit, and reports all the same", async () => {
    const { code, stdout } = await inspect(model, "--memory", "100kB");
    expect(code).toBe(7);
    expect(stdout).toContain("It does not fit.");
    expect(stdout).toMatch(/OUT_OF_BUDGET: Needs .*the budget is 97\.7 KiB/);
    const { memory, problems } = JSON.parse((await inspect(model, "--memory", "100kB", "--json")).stdout);
    expect(memory).toMatchObject({ fits: false, budgetBytes: 100_000, availableBytes: 100_000 });
    expect(memory.neededBytes).toBeGreaterThan(100_000);
    expect(problems).toMatchObject([{ code: "OUT_OF_BUDGET" }]);
  });

  it("reads safetensors folders", async () => {
    const { code, stdout } = await inspect(await writeTinySafetensors(tiny, join(folder, "hf")), "--json");
    expect(JSON.parse(stdout)).toMatchObject({ format: "safetensors", parameters, problems: [] });
    expect(code).toBe(0);
  });

  it("shows a file of an architecture that cannot be run, and ends as running it would", async () => {
    const strange = {
      ...tiny,
      name: "strange",
      metadata: { ...tiny.metadata, "general.architecture": string("frob") },
    };
    const { code, stdout } = await inspect(await writeTinyGguf(strange, folder));
    expect(code).toBe(4);
    expect(stdout).toContain("frob");
    expect(stdout).toContain(`Tensors (${sizes.length};`);
    expect(stdout).toMatch(/UNSUPPORTED_ARCHITECTURE: .*known are llama/);
  });
});

describe("the report", () => {
  it("lets no control character of a file reach the terminal", async () => {
    const evil = "\u001b]0;owned\u0007\u009b2J\r";
    const checkpoint = memoryCheckpoint(
      { [`t${evil}`]: { shape: [2], data: new Float32Array(2) } },
      {
        format: "gguf",
        architecture: `a${evil}`,
        metadata: [
          ["general.name", evil],
          [`k${evil}`, [evil, evil]],
        ],
      },
    );
    const parameters = openParameters("x", { backend: "reference" });
    const text = print(await examine(checkpoint, parameters, { tensors: true, template: true }));
    expect(text).toContain("\ufffd]0;owned\ufffd");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  });
});
