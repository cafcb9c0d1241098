/**
 * Reads GGUF v2 and v3, little endian, one file or split (`-00001-of-00003.gguf`).
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * Why not `@huggingface/gguf` 0.4.6, which the tests use as an oracle: it holds the whole header in one buffer that
 * grows by 2 MB (and on chunk borders reads a value from its start again); a truncated file parses as zeros, because
 * the last chunk is padded; tensor offsets, types, alignment and duplicate names are not checked; arrays stop at a
 * million elements. Here the header streams
 * through one buffer and every length is held against the file's size.
 */
import { basename, dirname, join } from "node:path";
import { MillraceError } from "../errors.js";
import { LAYOUTS, tensorBytes } from "./blocks/contract.js";
import type { MetadataValue, TensorType } from "./checkpoint.js";
import { closeAll, type OpenFile, openFile } from "./file.js";
import { FileCheckpoint, type FileCheckpointParts, type LocatedTensor } from "./file-checkpoint.js";
import { bad, GgufReader, LIMITS } from "./gguf-reader.js";
import { type GgufValue, plainValue } from "./gguf-values.js";

export const GGUF_MAGIC = 0x46554747;
export const DEFAULT_ALIGNMENT = 32;

/** Names of the tensor types that have a number in GGUF and no reader here, for messages. */
const FOREIGN_TYPES: Readonly<Record<number, string>> = {
  4: "Q4_2 (removed)",
  5: "Q4_3 (removed)",
  9: "Q8_1",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  21: "IQ3_S",
  22: "IQ2_S",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  31: "Q4_0_4_4 (removed)",
  32: "Q4_0_4_8 (removed)",
  33: "Q4_0_8_8 (removed)",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
  40: "NVFP4",
  41: "Q1_0",
  42: "Q2_0",
};

const TYPE_BY_ID: ReadonlyMap<number, TensorType> = new Map(
  (Object.keys(LAYOUTS) as TensorType[]).map((type) => [LAYOUTS[type].ggufId, type]),
);

/** A checkpoint that also knows its metadata with types, so that a conversion can write it again unchanged. */
export class GgufCheckpoint extends FileCheckpoint {
  constructor(
    parts: FileCheckpointParts,
    readonly version: number,
    /** Key-value pairs of the first file, in file order, with their types. */
    readonly entries: ReadonlyMap<string, GgufValue>,
  ) {
    super(parts);
  }
}

interface Header {
  readonly version: number;
  readonly entries: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly LocatedTensor[];
}

/**
 * Opens a GGUF file, or all parts of a split one when given any of them. Reads the header only.
 * Throws FILE_NOT_FOUND, BAD_FORMAT (truncated, corrupt, contradictory), UNSUPPORTED_FORMAT (version 1, big endian),
 * UNSUPPORTED_TENSOR_TYPE, MISSING_METADATA (no general.architecture).
 */
export async function openGguf(path: string): Promise<GgufCheckpoint> {
  const files: OpenFile[] = [];
  try {
    const opened = await openFile(path);
    files.push(opened);
    const header = await readHeader(opened);
    const count = splitNumber(header, opened, "split.count") ?? 1;
    if (count <= 1) return checkpointOf(path, files, header, header.tensors);

    const paths = splitPaths(opened, count);
    const headers: Header[] = [];
    const ordered: OpenFile[] = [];
    for (const [index, part] of paths.entries()) {
      const isOpened = basename(part) === basename(path);
      const file = isOpened ? opened : await openFile(part);
      if (!isOpened) files.push(file);
      const partHeader = isOpened ? header : await readHeader(file);
      const number = splitNumber(partHeader, file, "split.no");
      const partCount = splitNumber(partHeader, file, "split.count");
      if (number !== index || partCount !== count) {
        throw bad(file, `split.no ${number} of split.count ${partCount}`, `part ${index} of ${count}`);
      }
      ordered.push(file);
      headers.push(partHeader);
    }
    const first = headers[0]!;
    const tensors = headers.flatMap((part) => part.tensors);
    const expected = splitNumber(first, ordered[0]!, "split.tensors.count");
    if (expected !== undefined && expected !== tensors.length) {
      throw bad(
        ordered[0]!,
        `${tensors.length} tensors in ${count} parts`,
        `split.tensors.count ${expected}`,
      );
    }
    return checkpointOf(paths[0]!, ordered, first, tensors);
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

function checkpointOf(
  path: string,
  files: readonly OpenFile[],
  header: Header,
  located: readonly LocatedTensor[],
): GgufCheckpoint {
  const architecture = header.entries.get("general.architecture");
  if (architecture?.type !== "string") {
    throw new MillraceError(
      "MISSING_METADATA",
      `${path} has ${architecture ? `a general.architecture of type ${architecture.type}` : "no general.architecture"}; ` +
        "expected a string that names the model's architecture.",
      { path, key: "general.architecture" },
    );
  }
  const tensors = new Map<string, LocatedTensor>();
  for (const tensor of located) {
    if (tensors.has(tensor.name)) {
      throw bad(tensor.file, `tensor "${tensor.name}" twice`, "every name once", { tensor: tensor.name });
    }
    tensors.set(tensor.name, tensor);
  }
  const metadata = new Map<string, MetadataValue>();
  for (const [key, value] of header.entries) metadata.set(key, plainValue(value));
  return new GgufCheckpoint(
    {
      format: "gguf",
      path,
      architecture: architecture.value,
      metadata,
      tensors,
      files,
      tokenizer: metadata.has("tokenizer.ggml.model") ? { kind: "gguf", metadata } : { kind: "none" },
    },
    header.version,
    header.entries,
  );
}

/** A split.* key as a small number; absent gives undefined. */
function splitNumber(header: Header, file: OpenFile, key: string): number | undefined {
  const entry = header.entries.get(key);
  if (entry === undefined) return undefined;
  if (typeof entry.value !== "number" || !Number.isInteger(entry.value) || entry.value < 0) {
    throw bad(file, `${key} of type ${entry.type}`, "an unsigned integer");
  }
  return entry.value;
}

/** Paths of all parts, in order, from the name of any of them. */
function splitPaths(file: OpenFile, count: number): string[] {
  const match = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(basename(file.path));
  if (!match || Number(match[3]) !== count) {
    throw bad(
      file,
      `a part of a file split in ${count}`,
      `a name that ends in -00001-of-${String(count).padStart(5, "0")}.gguf, beside the other parts`,
    );
  }
  return Array.from({ length: count }, (_, index) =>
    join(dirname(file.path), `${match[1]}-${String(index + 1).padStart(5, "0")}-of-${match[3]}.gguf`),
  );
}

async function readHeader(file: OpenFile): Promise<Header> {
  const reader = new GgufReader(file);
  await reader.need(8, "magic and version");
  const magic = reader.u32();
  if (magic !== GGUF_MAGIC) {
    throw bad(file, `magic 0x${magic.toString(16).padStart(8, "0")}`, '"GGUF" (0x46554747)');
  }
  const version = reader.u32();
  if (version !== 2 && version !== 3) {
    const swapped = (version & 0xffff) === 0 && version !== 0;
    throw new MillraceError(
      "UNSUPPORTED_FORMAT",
      `${file.path} is GGUF ${swapped ? "in big-endian byte order" : `version ${version}`}; ` +
        "expected little-endian version 2 or 3. Convert the model again with current tools.",
      { path: file.path, version },
    );
  }
  await reader.need(16, "counts");
  const numTensors = reader.u64();
  const numKeys = reader.u64();
  // A key takes at least its length, one byte of name, a type and a one-byte value; a tensor at least 8+1+4+8+4+8.
  reader.checkCount("tensors", numTensors, LIMITS.tensors, 33);
  reader.checkCount("metadata keys", numKeys, LIMITS.keys, 14);

  const entries = new Map<string, GgufValue>();
  for (let index = 0; index < numKeys; index++) {
    const key = await reader.string("metadata key");
    if (key === "" || entries.has(key)) {
      throw bad(file, key === "" ? `an empty metadata key` : `metadata key "${key}" twice`, "unique names", {
        position: reader.position,
      });
    }
    await reader.need(4, key);
    entries.set(key, await reader.value(reader.valueType(key), key, 0));
  }
  const alignment = alignmentOf(file, entries);

  const drafts: { name: string; type: TensorType; shape: number[]; offset: number; byteLength: number }[] =
    [];
  for (let index = 0; index < numTensors; index++) {
    const name = await reader.string("tensor name");
    await reader.need(4, name);
    const numDimensions = reader.u32();
    if (numDimensions > LIMITS.dimensions) {
      throw bad(file, `tensor "${name}" of ${numDimensions} dimensions`, `at most ${LIMITS.dimensions}`, {
        tensor: name,
      });
    }
    await reader.need(numDimensions * 8 + 12, name);
    const shape: number[] = [];
    for (let d = 0; d < numDimensions; d++) shape.unshift(reader.u64());
    if (shape.some((size) => !Number.isSafeInteger(size) || size < 1)) {
      throw bad(file, `tensor "${name}" of shape [${shape}]`, "dimensions between 1 and 2^53", {
        tensor: name,
      });
    }
    if (shape.length === 0) shape.push(1);
    const type = tensorType(file, name, reader.u32());
    const offset = reader.u64();
    drafts.push({ name, type, shape, offset, byteLength: byteLengthOf(file, name, type, shape) });
  }

  const dataStart = Math.ceil(reader.position / alignment) * alignment;
  const tensors = drafts.map(({ offset, ...info }): LocatedTensor => {
    if (offset % alignment !== 0) {
      throw bad(file, `tensor "${info.name}" at offset ${offset}`, `a multiple of alignment ${alignment}`, {
        tensor: info.name,
        offset,
        alignment,
      });
    }
    const end = dataStart + offset + info.byteLength;
    if (end > file.size) {
      throw bad(
        file,
        `${file.size} bytes`,
        `at least ${end}: tensor "${info.name}" has ${info.byteLength} bytes at offset ${offset} of the data. ` +
          "The file is truncated: fetch it again",
        { tensor: info.name, offset, byteLength: info.byteLength, size: file.size },
      );
    }
    return { ...info, file, position: dataStart + offset };
  });
  checkOverlap(file, tensors);
  return { version, entries, tensors };
}

function byteLengthOf(file: OpenFile, name: string, type: TensorType, shape: readonly number[]): number {
  try {
    return tensorBytes(type, shape);
  } catch (error) {
    throw bad(file, `tensor "${name}"`, `a shape that ${type} can store. ${(error as Error).message}`, {
      tensor: name,
      type,
      shape,
    });
  }
}

function alignmentOf(file: OpenFile, entries: ReadonlyMap<string, GgufValue>): number {
  const value = entries.get("general.alignment")?.value ?? DEFAULT_ALIGNMENT;
  if (
    typeof value !== "number" ||
    value < 1 ||
    value > LIMITS.alignment ||
    !Number.isInteger(Math.log2(value))
  ) {
    throw bad(file, `general.alignment ${value}`, `a power of two up to ${LIMITS.alignment}`);
  }
  return value;
}

function tensorType(file: OpenFile, tensor: string, id: number): TensorType {
  const type = TYPE_BY_ID.get(id);
  if (type) return type;
  const name = FOREIGN_TYPES[id];
  throw new MillraceError(
    "UNSUPPORTED_TENSOR_TYPE",
    `${file.path}: tensor "${tensor}" is stored as ${name ?? `type ${id}, which GGUF does not define here`}; ` +
      `expected one of ${Object.keys(LAYOUTS).join(", ")}. Choose another quantisation of the model.`,
    { path: file.path, tensor, typeId: id, ...(name === undefined ? {} : { type: name }) },
  );
}

function checkOverlap(file: OpenFile, tensors: readonly LocatedTensor[]): void {
  const sorted = tensors.toSorted((a, b) => a.position - b.position);
  for (const [index, tensor] of sorted.entries()) {
    const previous = sorted[index - 1];
    if (previous && previous.position + previous.byteLength > tensor.position) {
      throw bad(
        file,
        `tensor "${tensor.name}" at byte ${tensor.position}`,
        `a start after "${previous.name}", which ends at ${previous.position + previous.byteLength}`,
        { tensor: tensor.name, other: previous.name, position: tensor.position },
      );
    }
  }
}
