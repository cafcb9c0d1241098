/**
 * Reads safetensors checkpoints as the transformers library lays them out: one file or shards with an index, and
 * config.json, tokenizer.json, tokenizer_config.json and friends beside them.
 * Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, the data).
 */
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type ErrorDetails, MillraceError } from "../errors.js";
import { tensorBytes } from "./blocks/contract.js";
import type { MetadataValue, TensorType, TokenizerSource } from "./checkpoint.js";
import { closeAll, fileError, type OpenFile, openFile, readFully } from "./file.js";
import { FileCheckpoint, type FileCheckpointParts, type LocatedTensor } from "./file-checkpoint.js";
import { isRecord, parseJson, readJson, readText } from "./json.js";

const INDEX_NAME = "model.safetensors.index.json";
const SINGLE_NAME = "model.safetensors";

/** The format's own limit on its header. */
const MAX_HEADER = 100_000_000;

const TYPES: ReadonlyMap<string, TensorType> = new Map([
  ["F32", "F32"],
  ["F16", "F16"],
  ["BF16", "BF16"],
]);

/** Bits per element of types that the format knows and no kernel reads, so that their sizes can be checked too. */
const FOREIGN_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  U16: 16,
  I16: 16,
  U32: 32,
  I32: 32,
  U64: 64,
  I64: 64,
  F64: 64,
  C64: 64,
};

/**
 * Opens a folder, a `.safetensors` file or a `model.safetensors.index.json`. Reads headers and JSON only.
 *
 * A weight of a type that Millrace does not compute with throws UNSUPPORTED_TENSOR_TYPE at once; other tensors of such
 * types (index buffers, masks) are left out of `tensors`, and throw it when read by name. Throws also FILE_NOT_FOUND (also for a missing shard or config.json), BAD_FORMAT,
 * MISSING_METADATA (no model_type), UNSUPPORTED_FORMAT (weights packed by a quantisation library).
 */
export async function openSafetensors(path: string): Promise<FileCheckpoint> {
  const { folder, weights } = await locate(path);
  const files: OpenFile[] = [];
  try {
    const config = await readJson(
      join(folder, "config.json"),
      "it names the architecture of the weights beside it",
    );
    const metadata = new Map<string, MetadataValue>();
    flatten(config, "", metadata);
    const architecture = metadata.get("model_type");
    if (typeof architecture !== "string") {
      throw new MillraceError(
        "MISSING_METADATA",
        `${join(folder, "config.json")} has no "model_type"; expected the name of the architecture.`,
        { path, key: "model_type" },
      );
    }
    refuseQuantised(folder, config);

    const shards = weights.endsWith(".json") ? await readIndex(join(folder, weights)) : undefined;
    const tensors = new Map<string, LocatedTensor>();
    const foreign = new Map<string, string>();
    for (const name of shards?.keys() ?? [weights]) {
      const file = await openFile(join(folder, name));
      files.push(file);
      const header = await readHeader(file);
      for (const tensor of shards?.get(name) ?? [...header.tensors.keys(), ...header.foreign.keys()]) {
        const located = header.tensors.get(tensor);
        const dtype = header.foreign.get(tensor);
        if (located) tensors.set(tensor, located);
        else if (dtype !== undefined) foreign.set(tensor, dtype);
        else throw bad(file, `no tensor "${tensor}"`, `it here, as ${weights} says`, { tensor });
      }
    }
    const tokenizer = await readTokenizer(folder);
    return new SafetensorsCheckpoint(
      { format: "safetensors", path, architecture, metadata, tokenizer, files, tensors },
      foreign,
    );
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

class SafetensorsCheckpoint extends FileCheckpoint {
  readonly #foreign: ReadonlyMap<string, string>;

  constructor(parts: FileCheckpointParts, foreign: ReadonlyMap<string, string>) {
    super(parts);
    this.#foreign = foreign;
  }

  override async read(name: string, byteOffset: number, into: Uint8Array): Promise<void> {
    const dtype = this.#foreign.get(name);
    if (dtype !== undefined) throw unsupported(this.path, name, dtype);
    await super.read(name, byteOffset, into);
  }
}

/** The folder and, in it, the file of weights or the index. */
async function locate(path: string): Promise<{ folder: string; weights: string }> {
  const stats = await stat(path).catch((error: unknown) => {
    throw fileError(path, error);
  });
  if (!stats.isDirectory()) {
    const folder = dirname(path);
    const isShard = /-\d{5}-of-\d{5}\.safetensors$/.test(path);
    if (isShard && (await readdir(folder)).includes(INDEX_NAME)) return { folder, weights: INDEX_NAME };
    return { folder, weights: basename(path) };
  }
  const names = await readdir(path);
  for (const known of [SINGLE_NAME, INDEX_NAME]) {
    if (names.includes(known)) return { folder: path, weights: known };
  }
  const candidates = names.filter((name) => name.endsWith(".safetensors"));
  if (candidates.length === 1) return { folder: path, weights: candidates[0]! };
  throw new MillraceError(
    candidates.length === 0 ? "FILE_NOT_FOUND" : "BAD_FORMAT",
    `${path} has ${candidates.length} .safetensors files and no ${INDEX_NAME}; expected ${SINGLE_NAME}, or an index ` +
      "that says which tensor lies in which file.",
    { path, files: candidates },
  );
}

/** Shard name -> its tensors, from the index's weight_map. Throws BAD_FORMAT; names that leave the folder are refused. */
async function readIndex(path: string): Promise<Map<string, string[]>> {
  const { weight_map: weightMap } = await readJson(path, "it says which tensor lies in which file");
  return shardsOf(weightMap, path);
}

/** As `readIndex`, from the parsed weight_map; for those who need the shards' names before the shards are there. */
function shardsOf(weightMap: unknown, path: string): Map<string, string[]> {
  const entries = isRecord(weightMap) ? Object.entries(weightMap) : [];
  if (entries.length === 0) {
    throw new MillraceError(
      "BAD_FORMAT",
      `${path} has no "weight_map"; expected tensor names and their files.`,
      { path },
    );
  }
  const shards = new Map<string, string[]>();
  for (const [tensor, name] of entries) {
    if (typeof name !== "string" || !/^[^/\\\0]+\.safetensors$/.test(name)) {
      throw new MillraceError(
        "BAD_FORMAT",
        `${path} places tensor "${tensor}" in ${JSON.stringify(name)}; expected the name of a .safetensors file in the same folder.`,
        { path, tensor },
      );
    }
    const shard = shards.get(name);
    if (shard) shard.push(tensor);
    else shards.set(name, [tensor]);
  }
  return shards;
}

/** What stands at the head of one safetensors file. */
export interface SafetensorsHeader {
  /** Free text under `__metadata__`. */
  readonly notes: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, LocatedTensor>;
  /** Tensors of other types, and which. */
  readonly foreign: ReadonlyMap<string, string>;
}

/**
 * The header of one file, checked against its size. Throws BAD_FORMAT, and UNSUPPORTED_TENSOR_TYPE for a weight of a
 * type that Millrace does not compute with.
 */
export async function readHeader(file: OpenFile): Promise<SafetensorsHeader> {
  if (file.size < 8) throw bad(file, `${file.size} bytes`, "at least the 8 bytes of the header's length");
  const prefix = Buffer.alloc(8);
  await readFully(file, 0, prefix);
  const length = Number(prefix.readBigUInt64LE());
  if (length > MAX_HEADER || length > file.size - 8 || length < 2) {
    throw bad(
      file,
      `a header of ${length} bytes in ${file.size}`,
      `2 to ${Math.min(MAX_HEADER, file.size - 8)}. The file is truncated or is not safetensors`,
      { length, size: file.size },
    );
  }
  const bytes = Buffer.allocUnsafe(length);
  await readFully(file, 8, bytes);
  const header = parseJson(bytes.toString("utf8"), `${file.path} (header)`);
  const dataStart = 8 + length;
  const dataBytes = file.size - dataStart;

  const tensors = new Map<string, LocatedTensor>();
  const foreign = new Map<string, string>();
  const ranges: { name: string; begin: number; end: number }[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, begin, end } = entryOf(file, name, entry);
    if (end > dataBytes) {
      throw bad(
        file,
        `tensor "${name}" up to byte ${end} of the data`,
        `at most ${dataBytes}. The file is truncated`,
        {
          tensor: name,
          end,
          dataBytes,
        },
      );
    }
    const type = TYPES.get(dtype);
    if (!type && name.endsWith(".weight")) throw unsupported(file.path, name, dtype);
    const byteLength = type ? sizeOf(file, name, type, shape) : foreignBytes(file, name, dtype, shape);
    if (end - begin !== byteLength) {
      throw bad(file, `${end - begin} bytes for tensor "${name}"`, `${byteLength} for ${dtype} [${shape}]`, {
        tensor: name,
      });
    }
    ranges.push({ name, begin, end });
    if (type) tensors.set(name, { name, type, shape, byteLength, file, position: dataStart + begin });
    else foreign.set(name, dtype);
  }
  checkContiguous(file, ranges, dataBytes);
  return { notes: notesOf(file, header.__metadata__), tensors, foreign };
}

function notesOf(file: OpenFile, notes: unknown): Record<string, string> {
  if (notes === undefined) return {};
  if (isRecord(notes) && Object.values(notes).every((note) => typeof note === "string")) {
    return notes as Record<string, string>;
  }
  throw bad(file, `${JSON.stringify(notes).slice(0, 200)} under __metadata__`, "names and texts");
}

function entryOf(
  file: OpenFile,
  name: string,
  entry: unknown,
): { dtype: string; shape: number[]; begin: number; end: number } {
  const { dtype, shape, data_offsets: offsets } = isRecord(entry) ? entry : {};
  const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (
    typeof dtype === "string" &&
    Array.isArray(shape) &&
    shape.every(isSize) &&
    Array.isArray(offsets) &&
    offsets.length === 2 &&
    offsets.every(isSize)
  ) {
    const [begin, end] = offsets as [number, number];
    if (begin <= end) return { dtype, shape, begin, end };
  }
  throw bad(
    file,
    `${JSON.stringify(entry)?.slice(0, 200)} for tensor "${name}"`,
    "a dtype, a shape and two ascending data_offsets",
    { tensor: name },
  );
}

function sizeOf(file: OpenFile, name: string, type: TensorType, shape: readonly number[]): number {
  try {
    return tensorBytes(type, shape);
  } catch (error) {
    throw bad(file, `tensor "${name}"`, `a shape that can be stored. ${(error as Error).message}`, {
      tensor: name,
    });
  }
}

function foreignBytes(file: OpenFile, name: string, dtype: string, shape: readonly number[]): number {
  const bits = FOREIGN_BITS[dtype];
  if (bits === undefined) {
    throw unsupported(file.path, name, dtype);
  }
  return (shape.reduce((product, size) => product * size, 1) * bits) / 8;
}

/** The format forbids holes and overlaps: nothing may hide between tensors. */
function checkContiguous(
  file: OpenFile,
  ranges: readonly { name: string; begin: number; end: number }[],
  dataBytes: number,
): void {
  let position = 0;
  for (const { name, begin, end } of ranges.toSorted((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== position) {
      throw bad(file, `tensor "${name}" at byte ${begin} of the data`, `${position}: no holes, no overlaps`, {
        tensor: name,
        begin,
      });
    }
    position = end;
  }
  if (position !== dataBytes) {
    throw bad(file, `${dataBytes} bytes of data`, `${position}, where the last tensor ends`, {
      dataBytes,
      position,
    });
  }
}

/** config.json as dotted keys; null means absent; arrays of objects take their index as a key. */
function flatten(value: unknown, prefix: string, into: Map<string, MetadataValue>): void {
  if (value === null || value === undefined) return;
  if (Array.isArray(value) && !value.some((item) => isRecord(item))) {
    into.set(prefix, value as MetadataValue);
  } else if (typeof value === "object") {
    for (const [key, item] of Object.entries(value))
      flatten(item, prefix === "" ? key : `${prefix}.${key}`, into);
  } else into.set(prefix, value as MetadataValue);
}

function refuseQuantised(folder: string, config: Record<string, unknown>): void {
  const { quantization_config: quantisation } = config;
  if (!isRecord(quantisation)) return;
  const { quant_method: named } = quantisation;
  const method = typeof named === "string" ? named : "a method that config.json does not name";
  throw new MillraceError(
    "UNSUPPORTED_FORMAT",
    `${folder}: the weights were quantised with ${method}; expected F32, F16 or BF16. ` +
      "Take the unquantised model, or a GGUF file of it.",
    { path: folder, method },
  );
}

/** tokenizer.json and what refines it. `config` is tokenizer_config.json plus chat_template and generation_config. */
async function readTokenizer(folder: string): Promise<TokenizerSource> {
  const names = new Set(await readdir(folder));
  if (!names.has("tokenizer.json")) return { kind: "none" };
  const optional = async (name: string): Promise<Record<string, unknown>> =>
    names.has(name) ? readJson(join(folder, name), "it belongs to the tokenizer") : {};
  const tokenizer = await optional("tokenizer.json");
  const config = await optional("tokenizer_config.json");
  const generation = await optional("generation_config.json");
  return {
    kind: "huggingface",
    tokenizer,
    config: {
      ...config,
      ...(names.has("chat_template.jinja")
        ? { chat_template: await readText(join(folder, "chat_template.jinja")) }
        : {}),
      ...(names.has("generation_config.json") ? { generation_config: generation } : {}),
    },
  };
}

function unsupported(path: string, tensor: string, dtype: string): MillraceError {
  return new MillraceError(
    "UNSUPPORTED_TENSOR_TYPE",
    `${path}: tensor "${tensor}" is stored as ${dtype.slice(0, 40)}; expected F32, F16 or BF16.`,
    { path, tensor, type: dtype.slice(0, 40) },
  );
}

function bad(file: OpenFile, got: string, expected: string, details: ErrorDetails = {}): MillraceError {
  return new MillraceError("BAD_FORMAT", `${file.path}: got ${got}, expected ${expected}.`, {
    path: file.path,
    ...details,
  });
}
