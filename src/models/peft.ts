/**
 * Adapters on disk, as the PEFT library keeps them: a folder with adapter_config.json and adapter_model.safetensors,
 * where layer "model.layers.0.self_attn.q_proj" has the tensors
 *   base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [rank, columns]
 *   base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight [rows, rank]
 * and its matrix changes by lora_alpha / r (or lora_alpha / sqrt(r) with use_rslora) times B A.
 */
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MillraceError } from "../errors.js";
import { blockFormat } from "../formats/blocks/index.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { fileError, openFile, readFully, writeAtomically } from "../formats/file.js";
import { isRecord, readJson } from "../formats/json.js";
import { readHeader } from "../formats/safetensors.js";
import { writeSafetensors } from "../formats/safetensors-writer.js";
import { adaptableMatrices, type LowRank, type LowRanks } from "./low-rank.js";
import { halveRows, interleaveRows } from "./row-order.js";

const WEIGHTS = "adapter_model.safetensors";
const CONFIG = "adapter_config.json";
const PREFIX = "base_model.model.";

/**
 * Reads the adapter in the folder `path` (or its adapter_model.safetensors) for `checkpoint`, whatever made it.
 * Throws FILE_NOT_FOUND; BAD_FORMAT for a damaged file and for one of another model, naming the layer; BAD_SHAPE;
 * UNSUPPORTED_FORMAT for adapters that are no plain LoRA (DoRA, biases, whole layers, embeddings).
 */
export async function readAdapter(path: string, checkpoint: Checkpoint): Promise<LowRanks> {
  const folder = (await isFolder(path)) ? path : dirname(path);
  const config = await readConfig(join(folder, CONFIG));
  const matrices = new Map(
    Array.from((await adaptableMatrices(checkpoint)).values(), (matrix) => [matrix.module, matrix]),
  );
  const tensors = await readTensors(join(folder, WEIGHTS));
  const found = new Map<string, LowRank>();
  for (const [module, { down, up }] of pairUp(tensors, folder)) {
    const matrix = matrices.get(module);
    if (!matrix) {
      const known = [...matrices.keys()].slice(0, 3).join(", ");
      throw bad(
        folder,
        `it changes layer "${module}", which ${checkpoint.path} does not have; it has ${known}, …`,
      );
    }
    const rank = down.shape[0] ?? 0;
    checkShape(folder, module, "lora_A", down.shape, [rank, matrix.columns]);
    checkShape(folder, module, "lora_B", up.shape, [matrix.rows, rank]);
    const { rows, columns, interleaved } = matrix;
    found.set(matrix.tensor, {
      rank,
      rows,
      columns,
      down: down.values,
      up: interleaved === null ? up.values : interleaveRows(up.values, rank, interleaved),
      scale: config.alpha(module) / (config.rankStabilised ? Math.sqrt(rank) : rank),
    });
  }
  if (found.size === 0) throw bad(folder, "it holds no adapter");
  return found;
}

/**
 * Writes an adapter of `checkpoint` into `folder`. All matrices must have one rank and one scale. Throws
 * INVALID_ARGUMENT where they have not, or where the checkpoint has no such matrix; WRITE_FAILED.
 */
export async function writeAdapter(folder: string, checkpoint: Checkpoint, adapter: LowRanks): Promise<void> {
  const matrices = await adaptableMatrices(checkpoint);
  const layers = Array.from(adapter, ([tensor, lowRank]) => ({
    matrix: matrices.get(tensor),
    tensor,
    lowRank,
  }));
  const first = layers[0]?.lowRank;
  if (!first || layers.some(({ lowRank: { rank, scale } }) => rank !== first.rank || scale !== first.scale)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `An adapter of ${layers.length} matrices cannot be written; expected at least one, all of one rank and scale.`,
    );
  }
  const tensors = layers.flatMap(({ matrix, tensor, lowRank }) => {
    if (!matrix) {
      throw new MillraceError("INVALID_ARGUMENT", `${checkpoint.path} has no matrix "${tensor}" to adapt.`, {
        tensor,
      });
    }
    const { module, interleaved } = matrix;
    const { rank, rows, columns, down, up } = lowRank;
    return [
      entry(`${PREFIX}${module}.lora_A.weight`, [rank, columns], down),
      entry(
        `${PREFIX}${module}.lora_B.weight`,
        [rows, rank],
        interleaved === null ? up : halveRows(up, rank, interleaved),
      ),
    ];
  });
  const targets = new Set(layers.map(({ matrix }) => matrix!.module.split(".").at(-1)!));
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: checkpoint.path,
    inference_mode: true,
    r: first.rank,
    lora_alpha: first.rank * first.scale,
    lora_dropout: 0,
    target_modules: [...targets].sort(),
    bias: "none",
    fan_in_fan_out: false,
    init_lora_weights: true,
    modules_to_save: null,
    rank_pattern: {},
    alpha_pattern: {},
    use_rslora: false,
    use_dora: false,
  };
  await writeSafetensors(join(folder, WEIGHTS), tensors, { format: "pt" });
  await writeAtomically(join(folder, CONFIG), (file) =>
    file.write(Buffer.from(`${JSON.stringify(config, null, 2)}\n`)),
  );
}

function entry(name: string, shape: readonly number[], values: Float32Array) {
  const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, type: "F32" as const, shape, data: () => data };
}

interface StoredTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

async function readTensors(path: string): Promise<Map<string, StoredTensor>> {
  const file = await openFile(path);
  try {
    const { tensors } = await readHeader(file);
    const found = new Map<string, StoredTensor>();
    for (const { name, type, shape, byteLength, position } of tensors.values()) {
      const bytes = new Uint8Array(byteLength);
      await readFully(file, position, bytes);
      const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
      blockFormat(type).decode(bytes, values);
      found.set(name, { shape, values });
    }
    return found;
  } finally {
    await file.handle.close();
  }
}

/** A and B of every layer. */
function pairUp(
  tensors: ReadonlyMap<string, StoredTensor>,
  folder: string,
): Map<string, { down: StoredTensor; up: StoredTensor }> {
  const halves = new Map<string, { down?: StoredTensor; up?: StoredTensor }>();
  for (const [name, tensor] of tensors) {
    const match = /^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight$/.exec(name);
    if (!match) {
      throw new MillraceError(
        "UNSUPPORTED_FORMAT",
        `${folder}: tensor "${name}" is no part of a plain LoRA; expected names that end in lora_A.weight and ` +
          "lora_B.weight. Merge the adapter where it was made, and open the merged model.",
        { folder, tensor: name },
      );
    }
    const half = halves.get(match[1]!) ?? {};
    half[match[2] === "A" ? "down" : "up"] = tensor;
    halves.set(match[1]!, half);
  }
  const pairs = new Map<string, { down: StoredTensor; up: StoredTensor }>();
  for (const [module, { down, up }] of halves) {
    if (!down || !up) throw bad(folder, `layer "${module}" has no lora_${down ? "B" : "A"}`);
    pairs.set(module, { down, up });
  }
  return pairs;
}

interface Config {
  readonly alpha: (module: string) => number;
  readonly rankStabilised: boolean;
}

async function readConfig(path: string): Promise<Config> {
  const json = await readJson(path, "it says how strongly the adapter applies");
  const odd = [
    json.peft_type !== "LORA" && `peft_type ${JSON.stringify(json.peft_type)}`,
    json.use_dora === true && "use_dora",
    json.bias !== undefined && json.bias !== "none" && `bias ${JSON.stringify(json.bias)}`,
    Array.isArray(json.modules_to_save) && json.modules_to_save.length > 0 && "modules_to_save",
  ].filter((reason) => reason !== false);
  if (odd.length > 0) {
    throw new MillraceError(
      "UNSUPPORTED_FORMAT",
      `${path} asks for ${odd.join(", ")}; expected a plain LoRA. Merge the adapter where it was made, and open ` +
        "the merged model.",
      { path, got: odd },
    );
  }
  const alpha = json.lora_alpha;
  if (typeof alpha !== "number" || !Number.isFinite(alpha)) throw bad(path, "lora_alpha is no number");
  const patterns = isRecord(json.alpha_pattern) ? Object.entries(json.alpha_pattern) : [];
  return {
    alpha: (module) => {
      const own = patterns.find(([name]) => module === name || module.endsWith(`.${name}`))?.[1];
      return typeof own === "number" ? own : alpha;
    },
    rankStabilised: json.use_rslora === true,
  };
}

async function isFolder(path: string): Promise<boolean> {
  const stats = await stat(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  return stats.isDirectory();
}

function checkShape(
  folder: string,
  module: string,
  name: string,
  got: readonly number[],
  expected: readonly number[],
): void {
  if (got.length === expected.length && got.every((size, i) => size === expected[i] && size > 0)) return;
  throw new MillraceError(
    "BAD_SHAPE",
    `${folder}: ${name} of layer "${module}" is [${got.join(", ")}]; the model asks for [${expected.join(", ")}]. ` +
      "The adapter belongs to another model.",
    { folder, module, got: [...got], expected: [...expected] },
  );
}

function bad(path: string, reason: string): MillraceError {
  return new MillraceError("BAD_FORMAT", `${path} is no adapter of this model: ${reason}.`, { path });
}
