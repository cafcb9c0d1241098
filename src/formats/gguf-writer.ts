/**
 * Writes GGUF v3, little endian, in one pass: the header from what is declared, then every tensor's bytes as its
 * chunks arrive, so that a file of many gigabytes never sits in memory.
 */
import { MillraceError } from "../errors.js";
import { LAYOUTS, tensorBytes } from "./blocks/contract.js";
import type { TensorType } from "./checkpoint.js";
import { type ByteChunks, writeAtomically } from "./file.js";
import { DEFAULT_ALIGNMENT, GGUF_MAGIC } from "./gguf.js";
import {
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufNumberType,
  type GgufValue,
  type GgufValueType,
  NUMBER_BYTES,
} from "./gguf-values.js";

export interface GgufTensor {
  readonly name: string;
  readonly type: TensorType;
  /** Outermost dimension first, as in `TensorInfo`. */
  readonly shape: readonly number[];
  /** Called once, when the tensor's turn comes; must yield exactly the bytes of type and shape. */
  readonly data: () => ByteChunks;
}

export interface GgufContents {
  /** Key-value pairs in the order in which they shall stand in the file. */
  readonly metadata: Readonly<Record<string, GgufValue>> | ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensor[];
}

export interface GgufWriteOptions {
  /** Called after every tensor with the bytes of tensor data so far and in all. */
  readonly onProgress?: (written: number, total: number) => void;
}

/**
 * Writes `contents` to `path`, replacing it only when complete. Alignment is the metadata's general.alignment, else 32.
 * Throws INVALID_ARGUMENT for duplicate names, values outside their type and data of the wrong length, BAD_SHAPE for
 * rows that are not whole blocks; nothing stays on disk then.
 */
export async function writeGguf(
  path: string,
  contents: GgufContents,
  options: GgufWriteOptions = {},
): Promise<void> {
  const entries =
    contents.metadata instanceof Map ? contents.metadata : new Map(Object.entries(contents.metadata));
  const alignment = entries.get("general.alignment")?.value ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== "number" || alignment < 1 || !Number.isInteger(Math.log2(alignment))) {
    throw invalid(`general.alignment ${alignment}`, "a power of two");
  }
  const header = new HeaderWriter();
  header.number("u32", GGUF_MAGIC);
  header.number("u32", 3);
  header.integer64("u64", contents.tensors.length);
  header.integer64("u64", entries.size);
  for (const [key, value] of entries) {
    header.string(key);
    header.number("u32", GGUF_VALUE_TYPES.indexOf(value.type));
    header.value(value.type, value.type === "array" ? value : value.value, key);
  }
  const sizes = contents.tensors.map((tensor) => tensorBytes(tensor.type, tensor.shape));
  const names = new Set<string>();
  let offset = 0;
  for (const [index, { name, shape, type }] of contents.tensors.entries()) {
    if (names.has(name)) throw invalid(`tensor "${name}" twice`, "every name once");
    if (
      shape.length < 1 ||
      shape.length > 4 ||
      shape.some((size) => !Number.isSafeInteger(size) || size < 1)
    ) {
      throw invalid(`tensor "${name}" of shape [${shape}]`, "one to four dimensions of at least 1");
    }
    names.add(name);
    header.string(name);
    header.number("u32", shape.length);
    for (const size of shape.toReversed()) header.integer64("u64", size);
    header.number("u32", LAYOUTS[type].ggufId);
    header.integer64("u64", offset);
    offset += Math.ceil(sizes[index]! / alignment) * alignment;
  }

  const total = sizes.reduce((sum, size) => sum + size, 0);
  await writeAtomically(path, async (file) => {
    await file.write(header.bytes());
    await file.pad(alignment);
    let written = 0;
    for (const [index, tensor] of contents.tensors.entries()) {
      await file.writeTensor(tensor.name, sizes[index]!, tensor.data());
      await file.pad(alignment);
      written += sizes[index]!;
      options.onProgress?.(written, total);
    }
  });
}

/** Metadata for part `index` of `count` of a split file, to be added to the part's other metadata. */
export function splitMetadata(index: number, count: number, numTensors: number): Record<string, GgufValue> {
  return {
    "split.no": { type: "u16", value: index },
    "split.count": { type: "u16", value: count },
    "split.tensors.count": { type: "i32", value: numTensors },
  };
}

const RANGES: Readonly<Partial<Record<GgufValueType, readonly [bigint, bigint]>>> = {
  u8: [0n, 0xffn],
  i8: [-0x80n, 0x7fn],
  u16: [0n, 0xffffn],
  i16: [-0x8000n, 0x7fffn],
  u32: [0n, 0xffff_ffffn],
  i32: [-0x8000_0000n, 0x7fff_ffffn],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
};

/** A growing little-endian buffer for the file's head. */
class HeaderWriter {
  #buffer = Buffer.alloc(4096);
  #length = 0;

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  string(text: string): void {
    const bytes = Buffer.byteLength(text);
    this.integer64("u64", bytes);
    const at = this.#take(bytes);
    this.#buffer.write(text, at);
  }

  value(type: GgufValueType, value: number | bigint | boolean | string | GgufArray, key: string): void {
    if (type === "string" && typeof value === "string") this.string(value);
    else if (type === "bool" && typeof value === "boolean") this.number("u8", value ? 1 : 0);
    else if (type === "array" && typeof value === "object") this.#array(value, key);
    else if ((type === "u64" || type === "i64") && isInteger(value) && inRange(type, value)) {
      this.integer64(type, value);
    } else if (isNumberType(type) && typeof value === "number" && inRange(type, value))
      this.number(type, value);
    else throw mismatch(key, type, value);
  }

  #array(array: GgufArray, key: string): void {
    this.number("u32", GGUF_VALUE_TYPES.indexOf(array.of));
    this.integer64("u64", array.value.length);
    for (const item of array.value) this.value(array.of, item, key);
  }

  number(type: GgufNumberType, value: number): void {
    const at = this.#take(NUMBER_BYTES[type]);
    switch (type) {
      case "u8":
        this.#buffer.writeUInt8(value, at);
        break;
      case "i8":
        this.#buffer.writeInt8(value, at);
        break;
      case "u16":
        this.#buffer.writeUInt16LE(value, at);
        break;
      case "i16":
        this.#buffer.writeInt16LE(value, at);
        break;
      case "u32":
        this.#buffer.writeUInt32LE(value, at);
        break;
      case "i32":
        this.#buffer.writeInt32LE(value, at);
        break;
      case "f32":
        this.#buffer.writeFloatLE(value, at);
        break;
      case "f64":
        this.#buffer.writeDoubleLE(value, at);
        break;
    }
  }

  integer64(type: "u64" | "i64", value: number | bigint): void {
    const at = this.#take(8);
    if (type === "u64") this.#buffer.writeBigUInt64LE(BigInt(value), at);
    else this.#buffer.writeBigInt64LE(BigInt(value), at);
  }

  /** Reserves `bytes` at the end and gives their offset; `#buffer` may move. */
  #take(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#buffer.length) {
      const grown = Buffer.alloc(Math.max(this.#length, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    return at;
  }
}

function isNumberType(type: GgufValueType): type is GgufNumberType {
  return type in NUMBER_BYTES;
}

function isInteger(value: unknown): value is number | bigint {
  return typeof value === "bigint" || Number.isInteger(value);
}

function inRange(type: GgufValueType, value: number | bigint): boolean {
  const range = RANGES[type];
  if (!range) return true;
  if (typeof value === "number" && !Number.isInteger(value)) return false;
  const exact = BigInt(value);
  return exact >= range[0] && exact <= range[1];
}

function mismatch(key: string, type: GgufValueType, value: unknown): MillraceError {
  return invalid(
    `${typeof value === "object" ? "an object" : String(value)} for "${key}"`,
    `a value of type ${type}`,
  );
}

function invalid(got: string, expected: string): MillraceError {
  return new MillraceError("INVALID_ARGUMENT", `Writing GGUF: got ${got}, expected ${expected}.`);
}
