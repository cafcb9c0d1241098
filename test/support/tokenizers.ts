/** The small tokenizers of test/fixtures/tokenizer (written by test/oracles/tokenizer.js). */
import { readFileSync } from "node:fs";
import type { MetadataValue } from "../../src/formats/checkpoint.js";
import type { Tokenizer } from "../../src/tokenizer/contract.js";
import { resolveTokenizer } from "../../src/tokenizer/resolve.js";

/** llama.cpp's ids of each string, control tokens' names taken as text, and as tokens. */
export interface Answer {
  readonly text: readonly (readonly number[])[];
  readonly special: readonly (readonly number[])[];
}

interface Vocabulary {
  readonly pieces: readonly string[];
  readonly types: readonly number[];
}

export interface BpeFixture extends Vocabulary {
  readonly strings: readonly string[];
  readonly merges: readonly string[];
  /** By pre-tokeniser; a name where the answer is that of another. */
  readonly answers: Readonly<Record<string, Answer | string>>;
}

export interface SpmFixture {
  readonly strings: readonly string[];
  /** "words": no piece reaches over a space. "phrases": some do. */
  readonly vocabularies: Readonly<Record<string, Vocabulary & { readonly scores: readonly number[] }>>;
  /** By vocabulary, with ", no prefix" where no space is put before the text. */
  readonly answers: Readonly<Record<string, Answer>>;
}

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../fixtures/tokenizer/${name}.json`, import.meta.url), "utf8"));

export const bpeFixture = read("bpe") as BpeFixture;
export const spmFixture = read("spm") as SpmFixture;

/** A tokenizer from metadata of a GGUF file; keys whose value is undefined are left out. */
export function ggufTokenizer(metadata: Readonly<Record<string, MetadataValue>>): Tokenizer {
  const entries = Object.entries(metadata).filter(([, value]) => value !== undefined);
  return resolveTokenizer({ kind: "gguf", metadata: new Map(entries) })!;
}

export function bpeTokenizer(preTokenizer: string): Tokenizer {
  return ggufTokenizer({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": preTokenizer,
    "tokenizer.ggml.tokens": bpeFixture.pieces,
    "tokenizer.ggml.token_type": bpeFixture.types,
    "tokenizer.ggml.merges": bpeFixture.merges,
    "tokenizer.ggml.bos_token_id": bpeFixture.pieces.indexOf("<|endoftext|>"),
  });
}

/** `name` is a key of `spmFixture.answers`. */
export function spmTokenizer(name: string): Tokenizer {
  const { pieces, types, scores } = spmFixture.vocabularies[name.replace(", no prefix", "")]!;
  return ggufTokenizer({
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": pieces,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.scores": scores,
    "tokenizer.ggml.add_space_prefix": !name.endsWith(", no prefix"),
  });
}
