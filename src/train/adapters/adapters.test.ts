import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import {
  type TinyName,
  tinyCheckpoint,
  tinyModel,
  writeTinyGguf,
  writeTinySafetensors,
} from "../../../test/support/tiny-models.js";
import { VOCABULARY } from "../../../test/support/tiny-vocabulary.js";
import { createReferenceTraining } from "../../backends/reference/training.js";
import type { TrainingArithmetic } from "../../backends/training.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import { openGguf } from "../../formats/gguf.js";
import { openCheckpoint } from "../../formats/open.js";
import { writeSafetensors } from "../../formats/safetensors-writer.js";
import { adaptableMatrices, type LowRanks } from "../../models/low-rank.js";
import { readAdapter, writeAdapter } from "../../models/peft.js";
import { buildTape } from "../../models/resolve.js";
import { exportGguf, exportSafetensors } from "../export.js";
import { mergeAdapter } from "../merge.js";
import { Network } from "../network.js";
import type { Batch } from "../network-contract.js";
import { ADAPTER_KINDS, type AdapterSet, type AdapterSpec, createAdapters } from "./resolve.js";

const SHAPE = { sequences: 2, length: 9 };
const SPEC: AdapterSpec = { kind: "lora", rank: 4, alpha: 6, seed: 5 };

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-adapters-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function randomBatch(): Batch {
  const random = new TestRandom(3);
  const ids = () =>
    Int32Array.from({ length: SHAPE.sequences * SHAPE.length }, () => random.below(VOCABULARY));
  return { tokens: ids(), targets: ids() };
}

async function networkOf(
  checkpoint: Checkpoint,
  set: AdapterSet | null,
  arithmetic: TrainingArithmetic,
): Promise<Network> {
  const { tape } = await buildTape(checkpoint);
  return Network.create(arithmetic, tape, checkpoint, {
    ...SHAPE,
    trainable: () => false,
    ...(set ? { adapt: set.adapt } : {}),
  });
}

/** A network with adapters whose every parameter has been moved off its start. */
async function adapted(checkpoint: Checkpoint, spec: AdapterSpec) {
  const arithmetic = createReferenceTraining();
  const set = await createAdapters(arithmetic, checkpoint, spec, { gradients: true });
  const network = await networkOf(checkpoint, set, arithmetic);
  const random = new TestRandom(17);
  const weights = new Map<string, Float32Array>();
  for (const { name, weight } of network.parameters) {
    const values = Float32Array.from(await weight.values.read(), (x) => x + 0.2 * (random.next() - 0.5));
    await weight.values.write(values);
    weights.set(name, values);
  }
  return { network, set, lowRanks: set.lowRanks(weights) };
}

async function loss(network: Network): Promise<number> {
  return (await network.evaluate(randomBatch())).loss;
}

async function mergedLoss(checkpoint: Checkpoint): Promise<number> {
  using network = await networkOf(checkpoint, null, createReferenceTraining());
  return await loss(network);
}

describe.each(ADAPTER_KINDS)("%s", (kind) => {
  const spec = { ...SPEC, kind };

  it("changes nothing at first", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const arithmetic = createReferenceTraining();
    const set = await createAdapters(arithmetic, checkpoint, spec, { gradients: false });
    using network = await networkOf(checkpoint, set, arithmetic);
    expect(await loss(network)).toBe(await mergedLoss(checkpoint));
    set.free();
  });

  it.each(["llama", "phi3"] as const)(
    "has the gradients of finite differences, and no others (%s)",
    async (name) => {
      const { network } = await adapted(tinyCheckpoint(tinyModel(name), "gguf"), spec);
      await network.accumulate(randomBatch(), 1);
      expect(network.parameters.every((parameter) => parameter.name.includes("/"))).toBe(true);
      const random = new TestRandom(2);
      for (const { name: parameter, weight, gradient } of network.parameters) {
        const gradients = await gradient!.values.read();
        const at = random.below(gradients.length);
        const [value] = await weight.values.read(at, 1);
        const step = 1e-4;
        const lossAt = async (x: number): Promise<number> => {
          await weight.values.write([x], at);
          return loss(network);
        };
        const slope = ((await lossAt(value! + step)) - (await lossAt(value! - step))) / (2 * step);
        await weight.values.write([value!], at);
        expect([parameter, gradients[at]]).toEqual([parameter, expect.closeTo(slope, 4)]);
      }
      network[Symbol.dispose]();
    },
  );

  it.each([
    ["llama", "gguf"],
    ["qwen3", "gguf"],
    ["phi3", "gguf"],
    ["llama", "safetensors"],
    ["gemma3", "safetensors"],
  ] as const)(
    "is what merging it makes of the model, before and after a save (%s, %s)",
    async (name, format) => {
      const checkpoint = tinyCheckpoint(tinyModel(name), format);
      const { network, set, lowRanks } = await adapted(checkpoint, spec);
      const expected = await loss(network);
      const path = join(folder, `${kind}-${name}-${format}`);
      await writeAdapter(path, checkpoint, lowRanks);
      const loaded = await readAdapter(path, checkpoint);
      expect(loaded).toEqual(lowRanks);
      const merged = await written(name, format, `${path}-merged`, loaded);
      expect(await mergedLoss(merged)).toBeCloseTo(expected, 3);
      expect(Math.abs((await mergedLoss(checkpoint)) - expected)).toBeGreaterThan(0.1);
      await merged.close();
      network[Symbol.dispose]();
      set.free();
    },
  );

  it("takes the targets that are named", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const arithmetic = createReferenceTraining();
    const create = (changes: Partial<AdapterSpec>) =>
      createAdapters(arithmetic, checkpoint, { ...spec, ...changes }, { gradients: false });
    const set = await create({ targets: ["q_proj", "lm_head"] });
    using network = await networkOf(checkpoint, set, arithmetic);
    const tensors = new Set(network.parameters.map((parameter) => parameter.name.split("/")[0]));
    expect([...tensors]).toEqual(["blk.0.attn_q.weight", "blk.1.attn_q.weight", "output.weight"]);
    for (const wrong of [{ targets: ["query"] }, { targets: [] }, { rank: 0 }, { rank: 65 }, { alpha: 0 }]) {
      await expect(create(wrong)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
  });
});

/** The model as a file with the adapter merged, opened. */
async function written(
  name: TinyName,
  format: Checkpoint["format"],
  path: string,
  adapter: LowRanks,
): Promise<Checkpoint> {
  if (format === "gguf") {
    await using base = await openGguf(await writeTinyGguf(tinyModel(name), `${path}-base`));
    await exportGguf(`${path}.gguf`, base, mergeAdapter(base, adapter));
    return openCheckpoint(`${path}.gguf`);
  }
  await using base = await openCheckpoint(await writeTinySafetensors(tinyModel(name), `${path}-base`));
  await exportSafetensors(path, base, mergeAdapter(base, adapter));
  return openCheckpoint(path);
}

describe("adapters in files", () => {
  it("mean the same for the GGUF model and the safetensors model that it was made of", async () => {
    const [gguf, huggingFace] = (["gguf", "safetensors"] as const).map((format) =>
      tinyCheckpoint(tinyModel("llama"), format),
    ) as [Checkpoint, Checkpoint];
    const { network, lowRanks } = await adapted(huggingFace, SPEC);
    const expected = await loss(network);
    const path = join(folder, "both");
    await writeAdapter(path, huggingFace, lowRanks);
    const loaded = await readAdapter(path, gguf);
    expect([...loaded.keys()]).toContain("blk.1.attn_k.weight");
    const merged = await written("llama", "gguf", `${path}-merged`, loaded);
    expect(await mergedLoss(merged)).toBeCloseTo(expected, 3);
    await merged.close();
    network[Symbol.dispose]();
  });

  it("are laid out as PEFT has them", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const { network, lowRanks } = await adapted(checkpoint, { ...SPEC, targets: ["down_proj"] });
    const path = join(folder, "layout");
    await writeAdapter(path, checkpoint, lowRanks);
    const config = JSON.parse(await readFile(join(path, "adapter_config.json"), "utf8"));
    // Fields of its LoraConfig; others it would warn of and leave out. No other file makes the adapter.
    expect(config).toEqual({
      ...{ peft_type: "LORA", task_type: "CAUSAL_LM", base_model_name_or_path: checkpoint.path },
      ...{ inference_mode: true, r: 4, lora_alpha: 6, lora_dropout: 0, target_modules: ["down_proj"] },
      ...{ bias: "none", fan_in_fan_out: false, init_lora_weights: true, modules_to_save: null },
      ...{ rank_pattern: {}, alpha_pattern: {}, use_rslora: false, use_dora: false },
    });
    // The state dictionary's names without the adapter's own ("default"), as the library stores them.
    const bytes = await readFile(join(path, "adapter_model.safetensors"));
    const length = Number(bytes.readBigUInt64LE());
    const { __metadata__, ...tensors } = JSON.parse(bytes.toString("utf8", 8, 8 + length));
    expect(__metadata__).toEqual({ format: "pt" });
    const layer = (i: number) => `base_model.model.model.layers.${i}.mlp.down_proj`;
    const entries = Object.entries(tensors as Record<string, { dtype: string; shape: number[] }>);
    expect(Object.fromEntries(entries.map(([name, { dtype, shape }]) => [name, [dtype, shape]]))).toEqual(
      Object.fromEntries(
        [0, 1].flatMap((i) => [
          [`${layer(i)}.lora_A.weight`, ["F32", [4, 96]]],
          [`${layer(i)}.lora_B.weight`, ["F32", [64, 4]]],
        ]),
      ),
    );
    expect(bytes.length).toBe(8 + length + 2 * 4 * (4 * 96 + 64 * 4));
    network[Symbol.dispose]();
  });

  const foreign = async (
    name: string,
    tensors: Readonly<Record<string, readonly number[]>>,
    config: Readonly<Record<string, unknown>> = {},
  ): Promise<string> => {
    const path = join(folder, name);
    await writeSafetensors(
      join(path, "adapter_model.safetensors"),
      Object.entries(tensors).map(([tensor, shape]) => ({
        name: tensor,
        type: "F16" as const,
        shape,
        data: () => new Uint8Array(2 * shape.reduce((product, size) => product * size, 1)).fill(0x3c),
      })),
    );
    const whole = { peft_type: "LORA", r: 2, lora_alpha: 8, ...config };
    await writeFile(join(path, "adapter_config.json"), JSON.stringify(whole));
    return path;
  };
  const MODULE = "base_model.model.model.layers.0.self_attn.q_proj";
  const PAIR = { [`${MODULE}.lora_A.weight`]: [4, 64], [`${MODULE}.lora_B.weight`]: [64, 4] };

  it("made elsewhere are read with their own scale", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const scale = async (name: string, config: Readonly<Record<string, unknown>>) =>
      (await readAdapter(await foreign(name, PAIR, config), checkpoint)).get("blk.0.attn_q.weight")!.scale;
    expect(await scale("plain", {})).toBe(2);
    expect(await scale("stabilised", { use_rslora: true })).toBe(4);
    expect(await scale("pattern", { alpha_pattern: { q_proj: 12, k_proj: 1 } })).toBe(3);
  });

  it("are refused where they do not fit, with the layer's name", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const refuse = async (path: string, code: string, part: string) => {
      const error = await readAdapter(path, checkpoint).catch((e: unknown) => e);
      expect(error).toMatchObject({ code });
      expect((error as Error).message).toContain(part);
    };
    const { [`${MODULE}.lora_A.weight`]: _, ...half } = PAIR;
    await refuse(join(folder, "absent"), "FILE_NOT_FOUND", "absent");
    await refuse(await foreign("half", half), "BAD_FORMAT", "has no lora_A");
    await refuse(
      await foreign("wide", { ...PAIR, [`${MODULE}.lora_A.weight`]: [4, 65] }),
      "BAD_SHAPE",
      "[4, 65]",
    );
    const other = { "x.lora_A.weight": [4, 64], "x.lora_B.weight": [64, 4] };
    await refuse(await foreign("other", other), "BAD_FORMAT", '"x"');
    await refuse(await foreign("dora", PAIR, { use_dora: true }), "UNSUPPORTED_FORMAT", "use_dora");
    await refuse(await foreign("biased", PAIR, { bias: "all" }), "UNSUPPORTED_FORMAT", "bias");
    await refuse(await foreign("ia3", PAIR, { peft_type: "IA3" }), "UNSUPPORTED_FORMAT", "IA3");
    await refuse(await foreign("alpha", PAIR, { lora_alpha: null }), "BAD_FORMAT", "lora_alpha");
    const vector = { ...PAIR, [`${MODULE}.lora_magnitude_vector`]: [64] };
    await refuse(await foreign("vector", vector), "UNSUPPORTED_FORMAT", "lora_magnitude_vector");
  });

  it("can change every dense matrix but an embedding", async () => {
    const modules = async (name: TinyName) =>
      [...(await adaptableMatrices(tinyCheckpoint(tinyModel(name), "gguf"))).values()].map(
        ({ module }) => module,
      );
    expect(await modules("qwen2")).not.toContain("lm_head");
    expect(await modules("llama")).toContain("lm_head");
    expect((await modules("phi3")).filter((module) => module.includes("layers.0"))).toEqual([
      "model.layers.0.self_attn.qkv_proj",
      "model.layers.0.self_attn.o_proj",
      "model.layers.0.mlp.gate_up_proj",
      "model.layers.0.mlp.down_proj",
    ]);
  });
});
