import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TapeRunner } from "../../test/support/run-tape.js";
import {
  TINY_SEED,
  tinyCheckpoint,
  tinyModel,
  tinyPrompt,
  writeTinyGguf,
  writeTinySafetensors,
} from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { openGguf } from "../formats/gguf.js";
import { openCheckpoint } from "../formats/open.js";
import { halveRows, interleaveRows } from "../models/row-order.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { exportGguf, exportSafetensors, readTensor } from "./export.js";
import { initialiseModel } from "./initialise.js";
import { trainTokenizer } from "./tokenizer.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-export-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}";
const TEXTS = Array.from(
  { length: 40 },
  (_, i) => `Anna took crate ${i} to the quay; it's the ${i}th crate.\n`,
);
const fresh = async () => {
  const tokenizer = await trainTokenizer(TEXTS, { vocabularySize: 320, chatTemplate: CHAT });
  const shape = { width: 64, layers: 2, heads: 4, kvHeads: 2, feedForward: 96, context: 64 };
  return initialiseModel(shape, tokenizer, { seed: 11 });
};
const values = (checkpoint: Checkpoint, name: string) =>
  readTensor(checkpoint, checkpoint.tensors.get(name)!);
async function logits(checkpoint: Checkpoint, prompt: readonly number[]): Promise<Float32Array> {
  using runner = await TapeRunner.open(createReference(), checkpoint);
  return (await runner.evaluate(prompt)).at(-1)!;
}

describe("exportGguf", () => {
  it("writes a fresh model that opens as it was, tokenizer and all", async () => {
    const model = await fresh();
    const path = join(folder, "fresh.gguf");
    await exportGguf(path, model);
    await using opened = await openGguf(path);
    expect([...opened.tensors.keys()]).toEqual([...model.tensors.keys()]);
    for (const name of model.tensors.keys())
      expect(await values(opened, name)).toEqual(await values(model, name));
    for (const [key, value] of model.entries) expect(opened.entries.get(key)).toEqual(value);
    expect(opened.entries.get("general.file_type")).toEqual({ type: "u32", value: 0 });
    const prompt = [0, 5, 270, 300];
    expect(await logits(opened, prompt)).toEqual(await logits(model, prompt));
    expect(resolveTokenizer(opened.tokenizer)!.chatTemplate).toBe(CHAT);
  });

  it.each([
    ["F16", 1, 1e-3],
    ["Q8_0", 7, 4e-3],
    ["Q4_0", 2, 0.126],
  ] as const)("stores matrices as %s and vectors as F32", async (type, fileType, bound) => {
    const model = await fresh();
    const path = join(folder, `${type}.gguf`);
    const done: number[] = [];
    await exportGguf(path, model, new Map(), {
      type,
      onProgress: (written, total) => done.push(written / total),
    });
    await using opened = await openGguf(path);
    expect(done.at(-1)).toBe(1);
    expect(opened.entries.get("general.file_type")).toEqual({ type: "u32", value: fileType });
    for (const tensor of opened.tensors.values()) {
      expect([tensor.name, tensor.type]).toEqual([tensor.name, tensor.shape.length === 1 ? "F32" : type]);
      const [got, want] = [await values(opened, tensor.name), await values(model, tensor.name)];
      const largest = want.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
      expect(got.every((x, i) => Math.abs(x - want[i]!) <= bound * largest)).toBe(true);
    }
  });

  it("keeps what did not change as it is stored, and chooses a type for each tensor where asked", async () => {
    const path = await writeTinyGguf(tinyModel("llama"), folder, { type: "Q4_0" });
    await using base = await openGguf(path);
    const name = "blk.1.ffn_up.weight";
    const changed = (await values(base, name)).map((x) => x + 1);
    const out = join(folder, "changed.gguf");
    await exportGguf(out, base, new Map([[name, () => changed]]), {
      type: (tensor) => (tensor.name === name ? "F32" : tensor.type),
    });
    await using opened = await openGguf(out);
    for (const tensor of base.tensors.values()) {
      const expected = tensor.name === name ? changed : await values(base, tensor.name);
      expect(await values(opened, tensor.name)).toEqual(expected);
      expect(opened.tensors.get(tensor.name)!.type).toBe(tensor.name === name ? "F32" : tensor.type);
    }
  });

  it("leaves nothing behind for values that do not fit", async () => {
    const model = await fresh();
    const before = await readdir(folder);
    const changed = new Map([["output_norm.weight", () => new Float32Array(3)]]);
    await expect(exportGguf(join(folder, "bad.gguf"), model, changed)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    expect(await readdir(folder)).toEqual(before);
  });

  it("refuses a model that is no GGUF", async () => {
    const model = tinyCheckpoint(tinyModel("llama"), "safetensors");
    await expect(exportGguf(join(folder, "hf.gguf"), model)).rejects.toMatchObject({
      code: "UNSUPPORTED_FORMAT",
    });
  });
});

describe("exportSafetensors", () => {
  it("writes a GGUF model so that it says the same, tokenizer included", async () => {
    const model = await fresh();
    const path = join(folder, "fresh");
    await exportSafetensors(path, model);
    await using opened = await openCheckpoint(path);
    expect(opened.architecture).toBe("llama");
    expect([...opened.tensors.keys()]).toContain("model.layers.1.self_attn.q_proj.weight");
    const [ours, theirs] = [resolveTokenizer(model.tokenizer)!, resolveTokenizer(opened.tokenizer)!];
    for (const text of [...TEXTS.slice(0, 3), "  Größe: 12 Ω\n\n"]) {
      expect([...theirs.encode(text)]).toEqual([...ours.encode(text)]);
    }
    expect([theirs.bosId, theirs.eosId, theirs.chatTemplate]).toEqual([0, 1, CHAT]);
    const prompt = [...ours.encode(TEXTS[7]!)].slice(0, 12);
    const [got, want] = [await logits(opened, prompt), await logits(model, prompt)];
    expect(got.every((x, i) => Math.abs(x - want[i]!) < 1e-5)).toBe(true);
  });

  it.each(["llama", "mistral"] as const)("undoes what a conversion of %s to GGUF did", async (name) => {
    const tiny = tinyModel(name);
    const path = await writeTinyGguf(tiny, folder);
    await using base = await openGguf(path);
    const out = join(folder, `${name}-back`);
    await exportSafetensors(out, base);
    await using opened = await openCheckpoint(out);
    for (const [tensor, { data }] of Object.entries(tiny.huggingFace.tensors)) {
      expect(await values(opened, tensor)).toEqual(data);
    }
    const expected = tinyCheckpoint(tiny, "safetensors");
    expect(opened.metadata.get("sliding_window")).toBe(expected.metadata.get("sliding_window"));
    expect(await logits(opened, tinyPrompt(24))).toEqual(await logits(expected, tinyPrompt(24)));
    const [ours, theirs] = [resolveTokenizer(base.tokenizer)!, resolveTokenizer(opened.tokenizer)!];
    for (const text of ["The inner the, a the.", " two  spaces é 😀"]) {
      expect([...theirs.encode(text)]).toEqual([...ours.encode(text)]);
      expect(theirs.decode(theirs.encode(text))).toBe(text);
    }
  });

  it("keeps the names and files of a safetensors model", async () => {
    const base = await openCheckpoint(await writeTinySafetensors(tinyModel("qwen2", TINY_SEED), folder));
    const name = "model.layers.0.mlp.up_proj.weight";
    const changed = (await values(base, name)).map((x) => x * 2);
    const out = join(folder, "copy");
    await exportSafetensors(out, base, new Map([[name, () => changed]]));
    await using opened = await openCheckpoint(out);
    expect(await values(opened, name)).toEqual(changed);
    expect(opened.metadata).toEqual(base.metadata);
    expect(opened.tokenizer).toEqual(base.tokenizer);
    await base.close();
  });

  it("refuses what it has no form for", async () => {
    for (const name of ["mixtral", "llama-linear", "llama-3.1", "gemma3"] as const) {
      const model = tinyCheckpoint(tinyModel(name), "gguf");
      await expect(exportSafetensors(join(folder, "no"), model)).rejects.toMatchObject({
        code: "UNSUPPORTED_ARCHITECTURE",
      });
    }
    expect(await readdir(folder)).not.toContain("no");
  });
});

describe("the order of rows", () => {
  it("is a permutation within heads that the other one undoes", () => {
    const rows = Float32Array.from({ length: 16 }, (_, i) => i);
    expect([...interleaveRows(rows, 1, 8)]).toEqual([0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    expect(halveRows(interleaveRows(rows, 2, 4), 2, 4)).toEqual(rows);
  });
});
