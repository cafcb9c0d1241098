/**
 * Typed reading of a checkpoint's metadata. Every value is asked for by two names: the GGUF key without its
 * architecture prefix ("block_count") and the config.json keys ("num_hidden_layers"), so that an architecture reads
 * both formats in one line.
 */
import { MillraceError } from "../errors.js";
import type { Checkpoint, MetadataValue } from "../formats/checkpoint.js";

/** One value's names. A list is tried in order; null where a format does not carry the value. */
export interface Key {
  readonly gguf: string | null;
  readonly huggingFace: string | readonly string[] | null;
}

const NESTED = "text_config.";

export class Hyperparameters {
  readonly format: Checkpoint["format"];
  readonly #checkpoint: Checkpoint;
  /** Multi-modal checkpoints keep the language model's values under "text_config"; those come first. */
  readonly #prefixes: readonly string[];

  constructor(checkpoint: Checkpoint) {
    this.format = checkpoint.format;
    this.#checkpoint = checkpoint;
    const nested = [...checkpoint.metadata.keys()].some((name) => name.startsWith(NESTED));
    this.#prefixes = nested ? [NESTED, ""] : [""];
  }

  /** A whole number >= 1. Throws MISSING_METADATA unless `fallback` is given, BAD_FORMAT for anything else. */
  integer<T = never>(key: Key, ...fallback: [T] | []): number | T {
    return this.#read(key, "a whole number of at least 1", fallback, (value) => {
      const number = typeof value === "bigint" ? Number(value) : value;
      return typeof number === "number" && Number.isSafeInteger(number) && number >= 1 ? number : undefined;
    });
  }

  /** A whole number that a file may leave out, or set to 0, to say that there is no such thing: then null. */
  count(key: Key): number | null {
    const number = this.#read(key, "a whole number", [0], (value) => {
      const parsed = typeof value === "bigint" ? Number(value) : value;
      return typeof parsed === "number" && Number.isSafeInteger(parsed) && parsed >= 0 ? parsed : undefined;
    });
    return number === 0 ? null : number;
  }

  /** A finite number > 0. Throws as `integer` does. */
  real<T = never>(key: Key, ...fallback: [T] | []): number | T {
    return this.#read(key, "a number above 0", fallback, (value) => {
      const number = typeof value === "bigint" ? Number(value) : value;
      return typeof number === "number" && Number.isFinite(number) && number > 0 ? number : undefined;
    });
  }

  flag<T = never>(key: Key, ...fallback: [T] | []): boolean | T {
    return this.#read(key, "true or false", fallback, (value) =>
      typeof value === "boolean" ? value : undefined,
    );
  }

  text<T = never>(key: Key, ...fallback: [T] | []): string | T {
    return this.#read(key, "a text", fallback, (value) => (typeof value === "string" ? value : undefined));
  }

  /** A list of finite numbers. */
  reals<T = never>(key: Key, ...fallback: [T] | []): readonly number[] | T {
    return this.#read(key, "a list of numbers", fallback, (value) => {
      if (!Array.isArray(value)) return undefined;
      const numbers = value.map(Number);
      return numbers.every(Number.isFinite) ? numbers : undefined;
    });
  }

  /** Whether the first of the key's names that the file has holds a list. */
  isList(key: Key): boolean {
    const name = this.#names(key).find((each) => this.#checkpoint.metadata.get(each) !== undefined);
    return name !== undefined && Array.isArray(this.#checkpoint.metadata.get(name));
  }

  /** A list of true and false. */
  flags<T = never>(key: Key, ...fallback: [T] | []): readonly boolean[] | T {
    return this.#read(key, "a list of true and false", fallback, (value) =>
      Array.isArray(value) && value.every((item): item is boolean => typeof item === "boolean")
        ? value
        : undefined,
    );
  }

  /** A list of texts. */
  texts<T = never>(key: Key, ...fallback: [T] | []): readonly string[] | T {
    return this.#read(key, "a list of texts", fallback, (value) =>
      Array.isArray(value) && value.every((item): item is string => typeof item === "string")
        ? value
        : undefined,
    );
  }

  /** Throws BAD_FORMAT with `message` unless `holds`. */
  check(holds: boolean, message: string): void {
    if (!holds) throw new MillraceError("BAD_FORMAT", `${this.#checkpoint.path}: ${message}`);
  }

  /** The first of the key's names that the file has, parsed. A JSON null counts as absent. */
  #read<R, T>(
    key: Key,
    expected: string,
    fallback: [T] | [],
    parse: (value: MetadataValue) => R | undefined,
  ): R | T {
    const names = this.#names(key);
    for (const name of names) {
      const value = this.#checkpoint.metadata.get(name);
      if (value === undefined || value === null) continue;
      const parsed = parse(value);
      if (parsed !== undefined) return parsed;
      const got = describe(value);
      throw new MillraceError(
        "BAD_FORMAT",
        `${this.#checkpoint.path}: metadata "${name}" is ${got}; expected ${expected}. The file is damaged or was ` +
          "written by a faulty converter.",
        { key: name, got, expected },
      );
    }
    if (fallback.length === 1) return fallback[0];
    const wanted =
      names.map((name) => `"${name}"`).join(" or ") || `"${String(key.gguf ?? key.huggingFace)}"`;
    throw new MillraceError(
      "MISSING_METADATA",
      `${this.#checkpoint.path}: metadata ${wanted} is missing; architecture "${this.#checkpoint.architecture}" ` +
        `needs it to be ${expected}. Convert the model again, or get a complete file.`,
      { key: names[0] ?? "", architecture: this.#checkpoint.architecture },
    );
  }

  #names(key: Key): string[] {
    if (this.format === "gguf")
      return key.gguf === null ? [] : [`${this.#checkpoint.architecture}.${key.gguf}`];
    const plain = key.huggingFace === null ? [] : [key.huggingFace].flat();
    return plain.flatMap((name) => this.#prefixes.map((prefix) => prefix + name));
  }
}

function describe(value: MetadataValue): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return typeof value === "string" ? `the text "${value.slice(0, 40)}"` : String(value);
}
