/**
 * Writing models: a checkpoint's tensors, some of them with new values, as GGUF or in the layout of the transformers
 * library. Files appear whole or not at all, and no more than one tensor is in memory at a time.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MillraceError } from "../errors.js";
import { blockFormat, LAYOUTS, rowBytes } from "../formats/blocks/index.js";
import type { Checkpoint, TensorInfo, TensorType } from "../formats/checkpoint.js";
import { writeAtomically } from "../formats/file.js";
import { type GgufValue, u32 } from "../formats/gguf-values.js";
import { writeGguf } from "../formats/gguf-writer.js";
import { writeSafetensors } from "../formats/safetensors-writer.js";
import { type HuggingFaceModel, llamaToHuggingFace } from "./export-huggingface.js";
import type { WritableCheckpoint } from "./initialise.js";

/** New values of tensors by name, row by row as the checkpoint shapes them; asked for once, when their turn comes. */
export type ChangedTensors = ReadonlyMap<string, () => Float32Array | Promise<Float32Array>>;

export interface ExportGgufOptions {
  /** Storage of matrices, one type for all or chosen for each; default: as the checkpoint stores them. */
  readonly type?: TensorType | ((tensor: TensorInfo) => TensorType);
  /** Called after every tensor with the bytes of tensor data so far and in all. */
  readonly onProgress?: (written: number, total: number) => void;
}

/** Values decoded at once when a tensor changes its type. */
const CHUNK = 2 ** 20;

/** `general.file_type` of files whose matrices are mostly of a type. */
const FILE_TYPES: Readonly<Partial<Record<TensorType, number>>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q2_K: 10,
  Q3_K: 12,
  Q4_K: 15,
  Q5_K: 17,
  Q6_K: 18,
  IQ4_NL: 25,
  IQ4_XS: 30,
  BF16: 32,
};

/**
 * Writes `checkpoint`, with the values of `changed` in place of its own, as one GGUF file. Vectors are stored as F32,
 * and so are matrices whose rows are not whole blocks of the type. Throws UNSUPPORTED_FORMAT where the checkpoint is
 * no GGUF (and so has no typed metadata), INVALID_ARGUMENT for values that do not fit their tensor, WRITE_FAILED;
 * `path` is untouched then.
 */
export async function exportGguf(
  path: string,
  checkpoint: Checkpoint,
  changed: ChangedTensors = new Map(),
  options: ExportGgufOptions = {},
): Promise<void> {
  if (!isWritable(checkpoint)) {
    throw new MillraceError(
      "UNSUPPORTED_FORMAT",
      `${checkpoint.path} is ${checkpoint.format}; a GGUF file can be written of a GGUF model only. ` +
        "Write a folder of safetensors, or convert the model to GGUF first.",
      { path: checkpoint.path, got: checkpoint.format, expected: "gguf" },
    );
  }
  const typeOf = (tensor: TensorInfo): TensorType => {
    const { type } = options;
    const wanted = typeof type === "function" ? type(tensor) : (type ?? tensor.type);
    const plain = tensor.shape.length < 2 || (tensor.shape.at(-1) ?? 1) % LAYOUTS[wanted].blockElements !== 0;
    return plain ? "F32" : wanted;
  };
  const tensors = [...checkpoint.tensors.values()];
  const entries = new Map<string, GgufValue>(checkpoint.entries);
  for (const key of ["split.no", "split.count", "split.tensors.count"]) entries.delete(key);
  const fileType = FILE_TYPES[mostStored(tensors, typeOf)];
  if (fileType !== undefined) entries.set("general.file_type", u32(fileType));
  if (tensors.some((tensor) => LAYOUTS[typeOf(tensor)].blockElements > 1)) {
    entries.set("general.quantization_version", u32(2));
  }
  await writeGguf(
    path,
    {
      metadata: entries,
      tensors: tensors.map((tensor) => ({
        name: tensor.name,
        type: typeOf(tensor),
        shape: tensor.shape,
        data: () => tensorBytes(checkpoint, tensor, typeOf(tensor), changed),
      })),
    },
    options.onProgress && { onProgress: options.onProgress },
  );
}

/** The type in which most values are stored. */
function mostStored(tensors: readonly TensorInfo[], typeOf: (tensor: TensorInfo) => TensorType): TensorType {
  const values = new Map<TensorType, number>();
  for (const tensor of tensors) {
    values.set(typeOf(tensor), (values.get(typeOf(tensor)) ?? 0) + numElements(tensor));
  }
  return [...values].reduce((most, each) => (each[1] > most[1] ? each : most), ["F32", 0] as const)[0];
}

export interface ExportSafetensorsOptions {
  /** Default "F32". */
  readonly type?: "F32" | "F16" | "BF16";
}

/**
 * Writes `checkpoint`, with the values of `changed` in place of its own, as a folder that the transformers library
 * reads: config.json, model.safetensors, and the tokenizer's files. A safetensors checkpoint keeps its own JSON files;
 * a GGUF file of the llama architecture is renamed, and its queries and keys get back the order of their rows. Throws
 * UNSUPPORTED_ARCHITECTURE for other GGUF files, UNSUPPORTED_TOKENIZER where the tokenizer has no such form,
 * INVALID_ARGUMENT and WRITE_FAILED as `exportGguf`.
 */
export async function exportSafetensors(
  folder: string,
  checkpoint: Checkpoint,
  changed: ChangedTensors = new Map(),
  options: ExportSafetensorsOptions = {},
): Promise<void> {
  const { type = "F32" } = options;
  const model =
    checkpoint.format === "gguf"
      ? await llamaToHuggingFace(checkpoint, type)
      : await ownFiles(checkpoint.path);
  await writeSafetensors(
    join(folder, "model.safetensors"),
    [...checkpoint.tensors.values()].flatMap((tensor) => {
      const place = model.place(tensor);
      if (place === null) return [];
      return {
        name: place.name,
        type,
        shape: tensor.shape,
        data: async function* () {
          if (place.reorder === null) yield* tensorBytes(checkpoint, tensor, type, changed);
          else {
            const values = await changedOrStored(checkpoint, tensor, changed);
            yield* encodeRows(place.reorder(values), tensor, type);
          }
        },
      };
    }),
    { format: "pt" },
  );
  for (const [name, content] of model.files) {
    const bytes = typeof content === "string" ? Buffer.from(content) : await readFile(content.from);
    await writeAtomically(join(folder, name), (file) => file.write(bytes));
  }
}

/** A safetensors checkpoint keeps its names and the JSON files beside it. */
async function ownFiles(path: string): Promise<HuggingFaceModel> {
  const folder = (await stat(path)).isDirectory() ? path : dirname(path);
  const files = new Map<string, { from: string }>();
  for (const name of await readdir(folder)) {
    const isText = /\.(json|jinja|model|txt)$/.test(name) && !name.endsWith(".index.json");
    if (isText) files.set(name, { from: join(folder, name) });
  }
  return { place: ({ name }) => ({ name, reorder: null }), files };
}

function isWritable(checkpoint: Checkpoint): checkpoint is WritableCheckpoint {
  return checkpoint.format === "gguf" && "entries" in checkpoint;
}

const numElements = ({ shape }: TensorInfo): number => shape.reduce((product, size) => product * size, 1);

/** The tensor's bytes as `type`, in chunks: unchanged ones as they stand where the type is theirs. */
async function* tensorBytes(
  checkpoint: Checkpoint,
  tensor: TensorInfo,
  type: TensorType,
  changed: ChangedTensors,
): AsyncGenerator<Uint8Array> {
  const values = await changed.get(tensor.name)?.();
  if (values !== undefined) {
    yield* encodeRows(values, tensor, type);
    return;
  }
  const columns = tensor.shape.at(-1) ?? 1;
  const rows = numElements(tensor) / columns;
  const storedBytes = rowBytes(tensor.type, columns);
  const step = Math.max(1, Math.floor(CHUNK / columns));
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row);
    const stored = new Uint8Array(count * storedBytes);
    await checkpoint.read(tensor.name, row * storedBytes, stored);
    if (type === tensor.type) yield stored;
    else {
      const decoded = new Float32Array(count * columns);
      blockFormat(tensor.type).decode(stored, decoded);
      yield* encodeRows(decoded, { ...tensor, shape: [count, columns] }, type);
    }
  }
}

/** All values of a tensor: new ones, or the stored ones decoded. */
async function changedOrStored(
  checkpoint: Checkpoint,
  tensor: TensorInfo,
  changed: ChangedTensors,
): Promise<Float32Array> {
  const values = await changed.get(tensor.name)?.();
  return values ?? readTensor(checkpoint, tensor);
}

/** The decoded values of a tensor. Throws as `Checkpoint.read`. */
export async function readTensor(checkpoint: Checkpoint, tensor: TensorInfo): Promise<Float32Array> {
  const stored = new Uint8Array(tensor.byteLength);
  await checkpoint.read(tensor.name, 0, stored);
  const values = new Float32Array(numElements(tensor));
  blockFormat(tensor.type).decode(stored, values);
  return values;
}

function* encodeRows(values: Float32Array, tensor: TensorInfo, type: TensorType): Generator<Uint8Array> {
  const columns = tensor.shape.at(-1) ?? 1;
  if (values.length !== numElements(tensor)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Tensor "${tensor.name}" got ${values.length} values; expected ${numElements(tensor)} for [${tensor.shape}].`,
      { tensor: tensor.name, got: values.length, expected: numElements(tensor) },
    );
  }
  const bytes = rowBytes(type, columns);
  const step = Math.max(1, Math.floor(CHUNK / columns));
  for (let at = 0; at < values.length; at += step * columns) {
    const part = values.subarray(at, at + step * columns);
    const out = new Uint8Array((part.length / columns) * bytes);
    blockFormat(type).encode(part, out);
    yield out;
  }
}
