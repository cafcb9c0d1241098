/**
 * The keys `tokenizer.ggml.*` of a GGUF file, read and checked once for every tokenizer that is made from them.
 * Source: the GGUF specification, section "Tokenizer".
 */
import { MillraceError } from "../errors.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import { endOfGenerationIds, SpecialMatcher } from "./special-tokens.js";

/** `tokenizer.ggml.token_type`. */
export const TOKEN_TYPE = {
  undefined: 0,
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** What a file says where it is silent, which differs between kinds of tokenizer. */
export interface VocabularyDefaults {
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly unknownId: number | null;
  readonly addsBos: boolean;
}

export interface GgufVocabulary {
  readonly pieces: readonly string[];
  /** [vocabulary] values of `TOKEN_TYPE`. */
  readonly types: Uint8Array;
  /** [vocabulary]; null where the file has none. */
  readonly scores: Float64Array | null;
  /** Piece to id; the lowest id where pieces repeat. Empty pieces are left out. */
  readonly ids: ReadonlyMap<string, number>;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly unknownId: number | null;
  readonly eosIds: ReadonlySet<number>;
  readonly addsBos: boolean;
  readonly addsEos: boolean;
  readonly chatTemplate: string | null;
  /** Finds control and unknown tokens' names, and user-defined pieces. */
  readonly allSpecial: SpecialMatcher;
  /** Finds user-defined pieces only. */
  readonly userDefined: SpecialMatcher;
}

type Metadata = ReadonlyMap<string, MetadataValue>;

/** Throws BAD_TOKENIZER naming the key that is missing, of a wrong type, or contradicts another. */
export function readVocabulary(metadata: Metadata, defaults: VocabularyDefaults): GgufVocabulary {
  const pieces = strings(metadata, "tokenizer.ggml.tokens");
  if (pieces === null || pieces.length === 0) {
    throw bad(
      "tokenizer.ggml.tokens",
      pieces === null ? "nothing" : "an empty list",
      "a list of token texts",
    );
  }
  const size = pieces.length;
  const scores = numbers(metadata, "tokenizer.ggml.scores", size);
  const typeList = numbers(metadata, "tokenizer.ggml.token_type", size);
  const types = new Uint8Array(size).fill(TOKEN_TYPE.normal);
  typeList?.forEach((type, id) => {
    if (!Number.isInteger(type) || type < 0 || type > TOKEN_TYPE.byte) {
      throw bad("tokenizer.ggml.token_type", `${type} for token ${id}`, "whole numbers from 0 to 6");
    }
    types[id] = type;
  });

  const ids = new Map<string, number>();
  pieces.forEach((piece, id) => {
    if (piece !== "" && !ids.has(piece)) ids.set(piece, id);
  });

  const bosId = tokenId(metadata, "bos_token_id", size, defaults.bosId);
  const eosId = tokenId(metadata, "eos_token_id", size, defaults.eosId);
  const unknownId = tokenId(metadata, "unknown_token_id", size, defaults.unknownId);
  const eotId = tokenId(metadata, "eot_token_id", size, null);
  const eomId = tokenId(metadata, "eom_token_id", size, null);
  const addsBos = flag(metadata, "tokenizer.ggml.add_bos_token") ?? (defaults.addsBos && bosId !== null);
  const addsEos = flag(metadata, "tokenizer.ggml.add_eos_token") ?? false;
  if (addsBos && bosId === null) {
    throw bad("tokenizer.ggml.bos_token_id", "nothing", "a token id, since add_bos_token is true");
  }
  if (addsEos && eosId === null) {
    throw bad("tokenizer.ggml.eos_token_id", "nothing", "a token id, since add_eos_token is true");
  }

  const eosIds = endOfGenerationIds([eosId, eotId, eomId], (piece) => ids.get(piece));
  // Files exist whose conversion left an end-of-turn token as ordinary text; it must not be printed as such.
  for (const id of eosIds) if (types[id] === TOKEN_TYPE.normal) types[id] = TOKEN_TYPE.control;

  const template = metadata.get("tokenizer.chat_template");
  if (template !== undefined && typeof template !== "string") {
    throw bad("tokenizer.chat_template", typeof template, "a text");
  }

  const named: [string, number][] = [];
  const userDefined: [string, number][] = [];
  types.forEach((type, id) => {
    if (type === TOKEN_TYPE.userDefined) userDefined.push([pieces[id]!, id]);
    else if (isSpecialType(type)) named.push([pieces[id]!, id]);
  });
  const stripRight = stripsRight(metadata, pieces);
  return {
    pieces,
    types,
    scores,
    ids,
    bosId,
    eosId,
    unknownId,
    eosIds,
    addsBos,
    addsEos,
    chatTemplate: template === undefined || template === "" ? null : template,
    allSpecial: new SpecialMatcher([...named, ...userDefined], stripRight),
    userDefined: new SpecialMatcher(userDefined, stripRight),
  };
}

export const isSpecialType = (type: number): boolean =>
  type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown;

export function bad(key: string, got: string, expected: string): MillraceError {
  return new MillraceError(
    "BAD_TOKENIZER",
    `The tokenizer's ${key} holds ${got}; expected ${expected}. Fetch or convert the model file anew.`,
    { name: key, got, expected },
  );
}

/**
 * Phi-3's special tokens swallow the white space behind them. GGUF has no key for it; the model's name is the only
 * mark, as it is for llama.cpp.
 */
function stripsRight(metadata: Metadata, pieces: readonly string[]): (id: number) => boolean {
  const name = metadata.get("general.name");
  if (typeof name !== "string" || !/phi-?3/i.test(name)) return () => false;
  return (id) => !["<unk>", "<s>", "<|endoftext|>"].includes(pieces[id]!);
}

function list(metadata: Metadata, key: string): readonly unknown[] | null {
  const value = metadata.get(key);
  if (value === undefined) return null;
  if (Array.isArray(value)) return value;
  throw bad(key, typeof value, "a list");
}

export function strings(metadata: Metadata, key: string): readonly string[] | null {
  const values = list(metadata, key);
  values?.forEach((value, i) => {
    if (typeof value !== "string") throw bad(key, `a ${typeof value} at place ${i}`, "texts");
  });
  return values as readonly string[] | null;
}

function numbers(metadata: Metadata, key: string, length: number): Float64Array | null {
  const values = list(metadata, key);
  if (values === null) return null;
  if (values.length !== length) {
    throw bad(key, `${values.length} values`, `${length}, one for each of tokenizer.ggml.tokens`);
  }
  return Float64Array.from(values, (value, i) => {
    if (typeof value !== "number" || Number.isNaN(value))
      throw bad(key, `${String(value)} at place ${i}`, "numbers");
    return value;
  });
}

export function flag(metadata: Metadata, key: string): boolean | undefined {
  const value = metadata.get(key);
  if (value === undefined || typeof value === "boolean") return value;
  throw bad(key, typeof value, "true or false");
}

/** Converters write 2^32 - 1 for "none". */
function tokenId(metadata: Metadata, name: string, size: number, fallback: number | null): number | null {
  const key = `tokenizer.ggml.${name}`;
  const value = metadata.get(key);
  if (value === undefined) return fallback !== null && fallback < size ? fallback : null;
  if (typeof value !== "number" && typeof value !== "bigint") throw bad(key, typeof value, "a token id");
  const id = Number(value);
  if (id === 0xffffffff || id === -1) return null;
  if (!Number.isInteger(id) || id < 0 || id >= size)
    throw bad(key, String(value), `an id from 0 to ${size - 1}`);
  return id;
}
