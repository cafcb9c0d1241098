/** Reads the values of a GGUF header one after another, and holds every length against the file's size. */
import { type ErrorDetails, MillraceError } from "../errors.js";
import { type OpenFile, readFully } from "./file.js";
import {
  GGUF_VALUE_TYPES,
  type GgufArray,
  type GgufNumberType,
  type GgufValue,
  type GgufValueType,
  NUMBER_BYTES,
} from "./gguf-values.js";

/** Bounds far above any real file, so that a damaged length fails at once and by its own name. */
export const LIMITS = {
  keys: 2 ** 16,
  tensors: 2 ** 20,
  dimensions: 4,
  stringBytes: 2 ** 26,
  arrayElements: 2 ** 24,
  arrayDepth: 4,
  alignment: 2 ** 20,
};

const CHUNK = 2 ** 20;

/** BAD_FORMAT of this file. */
export function bad(
  file: OpenFile,
  got: string,
  expected: string,
  details: ErrorDetails = {},
): MillraceError {
  return new MillraceError("BAD_FORMAT", `${file.path}: got ${got}, expected ${expected}.`, {
    path: file.path,
    ...details,
  });
}

/** Least bytes that an element of an array can take. */
function leastBytes(type: GgufValueType): number {
  switch (type) {
    case "bool":
      return 1;
    case "string":
    case "u64":
    case "i64":
      return 8;
    case "array":
      return 12;
    default:
      return NUMBER_BYTES[type];
  }
}

/** A cursor over the file's head, with one buffer that is refilled as it moves. */
export class GgufReader {
  readonly #file: OpenFile;
  #buffer: Buffer = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  /** File position of the buffer's first byte. */
  #base = 0;
  #cursor = 0;
  /** Elements of all arrays so far. */
  #elements = 0;

  constructor(file: OpenFile) {
    this.#file = file;
  }

  get position(): number {
    return this.#base + this.#cursor;
  }

  get #available(): number {
    return this.#buffer.length - this.#cursor;
  }

  /** Makes the next `bytes` bytes readable by the methods below. Throws BAD_FORMAT past the end of the file. */
  async need(bytes: number, what: string): Promise<void> {
    if (this.#available >= bytes) return;
    const remaining = this.#file.size - this.position;
    if (bytes > remaining) {
      throw bad(
        this.#file,
        `${remaining} bytes left at byte ${this.position}`,
        `${bytes} bytes of ${what}. The file is truncated or corrupt: fetch it again`,
        { position: this.position, remaining, expected: bytes },
      );
    }
    const next = Buffer.allocUnsafe(Math.min(remaining, Math.max(bytes, CHUNK)));
    const kept = this.#buffer.copy(next, 0, this.#cursor);
    this.#base = this.position;
    await readFully(this.#file, this.#base + kept, next.subarray(kept));
    this.#buffer = next;
    this.#view = new DataView(next.buffer, next.byteOffset, next.length);
    this.#cursor = 0;
  }

  u32(): number {
    const value = this.#view.getUint32(this.#cursor, true);
    this.#cursor += 4;
    return value;
  }

  /** A length, count or offset; exact up to 2^53 and merely large beyond. */
  u64(): number {
    return this.u32() + this.u32() * 2 ** 32;
  }

  /** Throws BAD_FORMAT where `count` items of at least `bytes` each cannot follow. */
  checkCount(what: string, count: number, limit: number, bytes: number): void {
    const remaining = this.#file.size - this.position;
    if (count > limit || count * bytes > remaining) {
      throw bad(
        this.#file,
        `a count of ${count} ${what} with ${remaining} bytes left`,
        `at most ${Math.min(limit, Math.floor(remaining / bytes))}. The file is truncated or corrupt: fetch it again`,
        { count, remaining, position: this.position },
      );
    }
  }

  valueType(what: string): GgufValueType {
    const id = this.u32();
    const type = GGUF_VALUE_TYPES[id];
    if (!type) {
      throw bad(this.#file, `value type ${id} for "${what}"`, `0 to ${GGUF_VALUE_TYPES.length - 1}`, {
        key: what,
        position: this.position,
      });
    }
    return type;
  }

  async string(what: string): Promise<string> {
    if (this.#available < 8) await this.need(8, what);
    const length = this.u64();
    if (length > LIMITS.stringBytes) {
      throw bad(
        this.#file,
        `a string of ${length} bytes for ${what}`,
        `at most ${LIMITS.stringBytes}. The file is corrupt: fetch it again`,
        { length, position: this.position },
      );
    }
    if (this.#available < length) await this.need(length, what);
    const start = this.#cursor;
    this.#cursor += length;
    return this.#buffer.toString("utf8", start, this.#cursor);
  }

  async value(type: GgufValueType, key: string, depth: number): Promise<GgufValue> {
    if (type === "string") return { type, value: await this.string(key) };
    if (type === "array") return this.#array(key, depth);
    await this.need(leastBytes(type), key);
    if (type === "bool") return { type, value: this.#bool(key) };
    if (type === "u64" || type === "i64") return { type, value: this.#integer64(type) };
    return { type, value: this.#number(type) };
  }

  async #array(key: string, depth: number): Promise<GgufArray> {
    if (depth >= LIMITS.arrayDepth) {
      throw bad(this.#file, `arrays nested in "${key}"`, `a depth of at most ${LIMITS.arrayDepth}`, { key });
    }
    await this.need(12, key);
    const of = this.valueType(key);
    const count = this.u64();
    const size = leastBytes(of);
    this.checkCount(`elements of "${key}"`, count, LIMITS.arrayElements - this.#elements, size);
    this.#elements += count;

    const value: (number | bigint | boolean | string | GgufArray)[] = [];
    if (of === "string") {
      for (let i = 0; i < count; i++) {
        const item = this.#nextString(key);
        value.push(typeof item === "string" ? item : await item);
      }
    } else if (of === "array") {
      for (let i = 0; i < count; i++) value.push(await this.#array(key, depth + 1));
    } else {
      const read = this.#elementReader(of, key);
      while (value.length < count) {
        if (this.#available < size) await this.need(size, key);
        const run = Math.min(count - value.length, Math.floor(this.#available / size));
        for (let i = 0; i < run; i++) value.push(read());
      }
    }
    return { type: "array", of, value };
  }

  /** As `string`, but without a promise where the buffer already holds it: vocabularies have 256k of them. */
  #nextString(what: string): string | Promise<string> {
    if (this.#available < 8) return this.string(what);
    const low = this.#view.getUint32(this.#cursor, true);
    const high = this.#view.getUint32(this.#cursor + 4, true);
    if (high !== 0 || low > this.#available - 8) return this.string(what);
    const start = this.#cursor + 8;
    this.#cursor = start + low;
    return this.#buffer.toString("utf8", start, this.#cursor);
  }

  #elementReader(
    type: Exclude<GgufValueType, "string" | "array">,
    key: string,
  ): () => number | bigint | boolean {
    if (type === "bool") return () => this.#bool(key);
    if (type === "u64" || type === "i64") return () => this.#integer64(type);
    return () => this.#number(type);
  }

  #bool(key: string): boolean {
    const byte = this.#view.getUint8(this.#cursor++);
    if (byte > 1) {
      throw bad(this.#file, `byte ${byte} for the boolean "${key}"`, "0 or 1", {
        key,
        position: this.position,
      });
    }
    return byte === 1;
  }

  #integer64(type: "u64" | "i64"): number | bigint {
    const value =
      type === "u64"
        ? this.#view.getBigUint64(this.#cursor, true)
        : this.#view.getBigInt64(this.#cursor, true);
    this.#cursor += 8;
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #number(type: GgufNumberType): number {
    const at = this.#cursor;
    this.#cursor += NUMBER_BYTES[type];
    switch (type) {
      case "u8":
        return this.#view.getUint8(at);
      case "i8":
        return this.#view.getInt8(at);
      case "u16":
        return this.#view.getUint16(at, true);
      case "i16":
        return this.#view.getInt16(at, true);
      case "u32":
        return this.#view.getUint32(at, true);
      case "i32":
        return this.#view.getInt32(at, true);
      case "f32":
        return this.#view.getFloat32(at, true);
      case "f64":
        return this.#view.getFloat64(at, true);
    }
  }
}
