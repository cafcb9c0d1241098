/** What the architectures write onto the tape, and how wrong files are refused; golden tokens are in test/. */
import { describe, expect, it } from "vitest";

import {
  TINY_NAMES,
  type TinyModel,
  type TinyTensor,
  tinyCheckpoint,
  tinyModel,
} from "../../test/support/tiny-models.js";
import { u32 } from "../formats/gguf-values.js";
import { memoryCheckpoint } from "../formats/memory.js";
import type { Op, Tape } from "../tape/tape.js";
import { architectureNames, buildTape } from "./resolve.js";

const FORMATS = ["gguf", "safetensors"] as const;

const ops = <K extends Op["op"]>(tape: Tape, kind: K) =>
  tape.ops.filter((op): op is Extract<Op, { op: K }> => op.op === kind);

/** The model with some GGUF tensors or keys changed; undefined takes one away. */
function changed(
  model: TinyModel,
  changes: {
    tensors?: Record<string, TinyTensor | undefined>;
    config?: Record<string, unknown>;
    metadata?: Record<string, ReturnType<typeof u32> | undefined>;
    huggingFace?: Record<string, TinyTensor | undefined>;
  },
): TinyModel {
  const merge = <T>(base: Readonly<Record<string, T>>, over: Record<string, T | undefined> = {}) =>
    Object.fromEntries(
      Object.entries({ ...base, ...over }).filter((entry): entry is [string, T] => entry[1] !== undefined),
    );
  return {
    ...model,
    metadata: merge(model.metadata, changes.metadata),
    tensors: merge(model.tensors, changes.tensors),
    huggingFace: {
      config: { ...model.huggingFace.config, ...changes.config },
      tensors: merge(model.huggingFace.tensors, changes.huggingFace),
    },
  };
}

const build = (model: TinyModel, format: "gguf" | "safetensors" = "gguf") =>
  buildTape(tinyCheckpoint(model, format));

describe.each(TINY_NAMES)("%s", (name) => {
  it("writes the same operations from both formats, reading every tensor once", async () => {
    const model = tinyModel(name);
    const [gguf, safetensors] = await Promise.all(FORMATS.map((format) => build(model, format)));
    expect(safetensors!.tape.ops.map(({ op }) => op)).toEqual(gguf!.tape.ops.map(({ op }) => op));
    // Which elements make a rotary pair is what the formats differ in.
    const layers = (tape: Tape) => tape.kv.map(({ rope: _rope, ...layer }) => layer);
    expect(layers(safetensors!.tape)).toEqual(layers(gguf!.tape));
    expect(gguf!.tape.kv).toHaveLength(gguf!.config.numLayers);
    expect(safetensors!.config).toMatchObject({
      contextLength: gguf!.config.contextLength,
      vocabularySize: gguf!.config.vocabularySize,
      embeddingWidth: gguf!.config.embeddingWidth,
    });
    for (const [tape, tensors] of [
      [gguf!.tape, model.tensors],
      [safetensors!.tape, model.huggingFace.tensors],
    ] as const) {
      const rows = new Map<string, number>();
      for (const { tensor, rowCount } of tape.weights.flatMap(({ slices }) => slices)) {
        rows.set(tensor, (rows.get(tensor) ?? 0) + rowCount);
      }
      for (const { slice } of tape.vectors) rows.set(slice.tensor, (rows.get(slice.tensor) ?? 0) + 1);
      const stored = Object.entries(tensors)
        .filter(([tensor]) => !tensor.startsWith("rope_"))
        .map(([tensor, { shape }]) => [tensor, shape.slice(0, -1).reduce((a, b) => a * b, 1)] as const);
      expect(rows).toEqual(new Map(stored));
    }
  });
});

describe("details", () => {
  it("rotates GGUF llama's neighbours, and halves everywhere else", async () => {
    for (const name of TINY_NAMES) {
      for (const format of FORMATS) {
        const model = tinyModel(name);
        const neighbours = format === "gguf" && model.metadata["general.architecture"]!.value === "llama";
        const { tape } = await build(model, format);
        for (const rope of tape.ropes) expect(rope.style).toBe(neighbours ? "interleaved" : "half");
      }
    }
  });

  it("shares one matrix between embedding and output where the file has no output", async () => {
    const { tape } = await build(tinyModel("qwen2"));
    const embedding = ops(tape, "embed")[0]!.weight;
    expect(ops(tape, "matmul").at(-1)!.weight).toBe(embedding);
  });

  it("ties the output where config.json says so, even beside a stored head", async () => {
    const model = tinyModel("llama");
    const free = await build(model, "safetensors");
    expect(ops(free.tape, "matmul").at(-1)!.weight.slices[0]!.tensor).toBe("lm_head.weight");
    const tied = await build(changed(model, { config: { tie_word_embeddings: true } }), "safetensors");
    expect(ops(tied.tape, "matmul").at(-1)!.weight).toBe(ops(tied.tape, "embed")[0]!.weight);
  });

  it("gemma3: five windows, then one layer that sees all with its own rope", async () => {
    for (const format of FORMATS) {
      const { tape } = await build(tinyModel("gemma3"), format);
      expect(tape.kv.map(({ window }) => window)).toEqual([16, 16, 16, 16, 16, null, 16]);
      const ropes = ops(tape, "attention").map(({ rope }) => rope!.frequencies[1]!);
      expect(ropes[0]).toBeCloseTo(10000 ** (-2 / 32), 12);
      expect(ropes[5]).toBeCloseTo(1e6 ** (-2 / 32) / 8, 12);
      expect(ropes[6]).toBe(ropes[0]);
      expect(ops(tape, "embed")[0]!.scale).toBe(8);
      expect(new Set(tape.vectors.map(({ add }) => add))).toEqual(new Set([format === "gguf" ? 0 : 1]));
    }
  });

  it("gemma3: layers may be listed one by one", async () => {
    const types = Array.from({ length: 7 }, (_, i) => (i === 2 ? "full_attention" : "sliding_attention"));
    const config = { layer_types: types, sliding_window_pattern: undefined };
    const { tape } = await build(changed(tinyModel("gemma3"), { config }), "safetensors");
    expect(tape.kv.map(({ window }) => window)).toEqual([16, 16, null, 16, 16, 16, 16]);
    const short = changed(tinyModel("gemma3"), { config: { ...config, layer_types: types.slice(1) } });
    await expect(build(short, "safetensors")).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it("gemma3: finds the language half of a multi-modal checkpoint", async () => {
    const model = tinyModel("gemma3");
    const { config, tensors } = model.huggingFace;
    const metadata = Object.entries(config).flatMap(([key, value]) =>
      typeof value === "number" ? [[`text_config.${key}`, value] as const] : [],
    );
    for (const prefix of ["language_model.", "model.language_"]) {
      const renamed = Object.fromEntries(
        Object.entries(tensors).map(([name, tensor]) => [
          prefix === "language_model." ? prefix + name : name.replace(/^model\./, "model.language_model."),
          tensor,
        ]),
      );
      const checkpoint = memoryCheckpoint(renamed, {
        format: "safetensors",
        architecture: "gemma3",
        metadata,
      });
      const { tape } = await buildTape(checkpoint);
      expect(tape.kv).toHaveLength(7);
    }
  });

  it("qwen2: a window from max_window_layers on, only where it is switched on", async () => {
    const model = tinyModel("qwen2");
    const off = await build(model, "safetensors");
    expect(off.tape.kv.map(({ window }) => window)).toEqual([null, null]);
    const on = await build(changed(model, { config: { use_sliding_window: true } }), "safetensors");
    expect(on.tape.kv.map(({ window }) => window)).toEqual([null, 32]);
  });

  it("mistral, phi3: the window of the file; 0 and null mean none", async () => {
    const windows = async (model: TinyModel, format: "gguf" | "safetensors") =>
      (await build(model, format)).tape.kv.map(({ window }) => window);
    const mistral = tinyModel("mistral");
    expect(await windows(mistral, "safetensors")).toEqual([16, 16]);
    expect(await windows(changed(mistral, { config: { sliding_window: null } }), "safetensors")).toEqual([
      null,
      null,
    ]);
    const phi3 = tinyModel("phi3");
    const withWindow = (window: number) =>
      changed(phi3, { metadata: { "phi3.attention.sliding_window": u32(window) } });
    expect(await windows(withWindow(24), "gguf")).toEqual([24, 24]);
    expect(await windows(withWindow(0), "gguf")).toEqual([null, null]);
  });

  it("qwen3moe: normalises as norm_topk_prob says; not saying so means no in config.json, yes in GGUF", async () => {
    const model = tinyModel("qwen3moe");
    const normalize = async (format: "gguf" | "safetensors", config: Record<string, unknown> = {}) =>
      ops((await build(changed(model, { config }), format)).tape, "route").map((op) => op.normalize);
    expect(await normalize("gguf")).toEqual([true, true]);
    expect(await normalize("safetensors")).toEqual([true, true]);
    expect(await normalize("safetensors", { norm_topk_prob: undefined })).toEqual([false, false]);
  });
});

describe("wrong files", () => {
  const llama = tinyModel("llama");

  it("names the known architectures", async () => {
    const checkpoint = memoryCheckpoint({}, { architecture: "mamba" });
    await expect(buildTape(checkpoint)).rejects.toMatchObject({
      code: "UNSUPPORTED_ARCHITECTURE",
      message: expect.stringMatching(/"mamba".*llama, mistral/),
      details: { known: architectureNames },
    });
  });

  it("names a missing tensor, by the file's own name", async () => {
    const gguf = changed(llama, { tensors: { "blk.1.ffn_up.weight": undefined } });
    await expect(build(gguf)).rejects.toMatchObject({
      code: "MISSING_TENSOR",
      details: { tensor: "blk.1.ffn_up.weight" },
    });
    const noEmbedding = changed(llama, { tensors: { "token_embd.weight": undefined } });
    await expect(build(noEmbedding)).rejects.toMatchObject({ details: { tensor: "token_embd.weight" } });
    const name = "model.layers.1.mlp.up_proj.weight";
    const safetensors = changed(llama, { huggingFace: { [name]: undefined } });
    await expect(build(safetensors, "safetensors")).rejects.toMatchObject({
      code: "MISSING_TENSOR",
      details: { tensor: name, canonical: "blk.1.ffn_up.weight" },
    });
    const bias = changed(tinyModel("qwen2"), { tensors: { "blk.0.attn_k.bias": undefined } });
    await expect(build(bias)).rejects.toMatchObject({ details: { tensor: "blk.0.attn_k.bias" } });
    const expert = "model.layers.0.mlp.experts.5.up_proj.weight";
    const experts = changed(tinyModel("qwen3moe"), { huggingFace: { [expert]: undefined } });
    await expect(build(experts, "safetensors")).rejects.toMatchObject({ details: { tensor: expert } });
  });

  it("states both shapes where a tensor contradicts the metadata", async () => {
    const shape = [64, 32];
    const tensor = { shape, data: new Float32Array(64 * 32) };
    await expect(build(changed(llama, { tensors: { "blk.0.attn_q.weight": tensor } }))).rejects.toMatchObject(
      {
        code: "BAD_SHAPE",
        details: { tensor: "blk.0.attn_q.weight", got: shape, expected: [64, 64] },
      },
    );
    const swapped = { shape: [96, 8, 64], data: new Float32Array(96 * 8 * 64) };
    const moe = changed(tinyModel("mixtral"), { tensors: { "blk.0.ffn_up_exps.weight": swapped } });
    await expect(build(moe)).rejects.toMatchObject({ details: { got: [96, 8, 64], expected: [4, 96, 64] } });
  });

  it("names a missing key", async () => {
    const gguf = changed(llama, { metadata: { "llama.block_count": undefined } });
    await expect(build(gguf)).rejects.toMatchObject({
      code: "MISSING_METADATA",
      details: { key: "llama.block_count" },
    });
    const safetensors = changed(llama, { config: { rms_norm_eps: undefined } });
    await expect(build(safetensors, "safetensors")).rejects.toMatchObject({
      code: "MISSING_METADATA",
      message: expect.stringContaining("rms_norm_eps"),
    });
  });

  it.each([
    ["block_count", 0],
    ["block_count", 2 ** 31],
    ["attention.head_count_kv", 3],
    ["attention.key_length", 15],
    ["attention.key_length", 2 ** 31],
    ["attention.value_length", 8],
    ["rope.dimension_count", 32],
  ])("refuses %s = %i", async (key, value) => {
    const model = changed(llama, { metadata: { [`llama.${key}`]: u32(value) } });
    await expect(build(model)).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it("refuses more experts a token than there are", async () => {
    const model = changed(tinyModel("mixtral"), { metadata: { "llama.expert_used_count": u32(5) } });
    await expect(build(model)).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it.each([["two"], [1.5], [true], [[1]], [Number.NaN]])("refuses %s layers", async (value) => {
    const model = changed(llama, { config: { num_hidden_layers: value } });
    await expect(build(model, "safetensors")).rejects.toMatchObject({
      code: "BAD_FORMAT",
      details: { key: "num_hidden_layers" },
    });
  });

  it("takes 64-bit integers", async () => {
    const metadata = { "llama.block_count": { type: "u64", value: 2n } as const };
    expect((await build(changed(llama, { metadata }))).config.numLayers).toBe(2);
  });
});
