/** Checkpoints in memory and files on disk of the tiny models. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { blockFormat, rowBytes } from "../../src/formats/blocks/index.js";
import type { Checkpoint, MetadataValue, TensorType } from "../../src/formats/checkpoint.js";
import { plainValue } from "../../src/formats/gguf-values.js";
import { writeGguf } from "../../src/formats/gguf-writer.js";
import { memoryCheckpoint } from "../../src/formats/memory.js";
import { writeSafetensors } from "../../src/formats/safetensors-writer.js";
import type { TinyModel, TinyTensor } from "./tiny-models.js";
import { tokenizerConfig, tokenizerJson } from "./tiny-vocabulary.js";

/** The model as a checkpoint in memory, in either format: what an opened file would show, without the file. */
export function tinyCheckpoint(model: TinyModel, format: Checkpoint["format"]): Checkpoint {
  if (format === "gguf") {
    const metadata = Object.entries(model.metadata).map(([key, value]) => [key, plainValue(value)] as const);
    const architecture = String(plainValue(model.metadata["general.architecture"]!));
    return memoryCheckpoint(model.tensors, { format, architecture, metadata });
  }
  const { config, tensors } = model.huggingFace;
  return memoryCheckpoint(tensors, {
    format,
    architecture: String(config.model_type),
    metadata: flatten(config),
  });
}

/** config.json's values under dotted names; lists stay whole, null counts as absent. */
function flatten(values: object, prefix = ""): [string, MetadataValue][] {
  return Object.entries(values).flatMap(([key, value]): [string, MetadataValue][] => {
    if (value === null) return [];
    if (typeof value === "object" && !Array.isArray(value)) return flatten(value, `${prefix}${key}.`);
    return [[prefix + key, value as MetadataValue]];
  });
}

/**
 * Writes the model as one GGUF file, `${folder}/${name}.gguf`, and returns its path. Matrices are stored as `type`
 * (default F32; widths are multiples of 32), vectors and routers as F32.
 */
export async function writeTinyGguf(
  model: TinyModel,
  folder: string,
  options: { readonly type?: TensorType } = {},
): Promise<string> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${model.name}.gguf`);
  const tensors = Object.entries(model.tensors).map(([name, tensor]) => {
    const plain = tensor.shape.length === 1 || name.endsWith("ffn_gate_inp.weight");
    const type = plain ? "F32" : (options.type ?? "F32");
    return { name, type, shape: tensor.shape, data: () => encode(tensor, type) };
  });
  await writeGguf(path, { metadata: model.metadata, tensors });
  return path;
}

/** Writes config.json, model.safetensors and the tokenizer into `${folder}/${name}`, and returns that folder. */
export async function writeTinySafetensors(model: TinyModel, folder: string): Promise<string> {
  const path = join(folder, model.name);
  await mkdir(path, { recursive: true });
  const json = {
    "config.json": model.huggingFace.config,
    "tokenizer.json": tokenizerJson(),
    "tokenizer_config.json": tokenizerConfig(),
  };
  for (const [name, value] of Object.entries(json)) {
    await writeFile(join(path, name), JSON.stringify(value, null, 2));
  }
  await writeSafetensors(
    join(path, "model.safetensors"),
    Object.entries(model.huggingFace.tensors).map(([name, tensor]) => ({
      name,
      type: "F32",
      shape: tensor.shape,
      data: () => encode(tensor, "F32"),
    })),
  );
  return path;
}

function encode({ shape, data }: TinyTensor, type: TensorType): Uint8Array {
  const columns = shape.at(-1) ?? 1;
  const out = new Uint8Array((data.length / columns) * rowBytes(type, columns));
  blockFormat(type).encode(data, out);
  return out;
}
