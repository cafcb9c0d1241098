/**
 * Byte-level byte-pair encoding as GGUF files carry it (`tokenizer.ggml.model` = "gpt2": GPT-2, Llama 3, Qwen, Mistral
 * Nemo, DeepSeek and most others): text is cut into words (pre-tokenizers.ts), a word's UTF-8 bytes are its first
 * symbols, and neighbours merge in the order of `tokenizer.ggml.merges`.
 *
 * Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); Radford et al.,
 * "Language Models are Unsupervised Multitask Learners" (2019).
 */
import type { MetadataValue } from "../formats/checkpoint.js";
import { BYTE_CHARACTERS, byteOf } from "./byte-pieces.js";
import type { Tokenizer } from "./contract.js";
import { createGgufTokenizer } from "./gguf-tokenizer.js";
import { bad, readVocabulary, strings, TOKEN_TYPE } from "./gguf-vocabulary.js";
import type { IdList } from "./id-list.js";
import { createMerger } from "./merger.js";
import { preTokenizer, splitWords } from "./pre-tokenizers.js";
import { encodeUtf8 } from "./utf8.js";
import { WordCache } from "./word-cache.js";

/** Most pairs of symbols whose merge is remembered. */
const MAX_FOUND = 2 ** 20;

/**
 * Throws BAD_TOKENIZER for metadata that lacks merges or contradicts itself, UNSUPPORTED_TOKENIZER for an unknown
 * pre-tokeniser. Bytes that the vocabulary cannot write are left out, as by the tokenizers that such vocabularies
 * come from.
 */
export function createBytePairEncoding(metadata: ReadonlyMap<string, MetadataValue>): Tokenizer {
  const name = metadata.get("tokenizer.ggml.pre") ?? "default";
  if (typeof name !== "string") throw bad("tokenizer.ggml.pre", typeof name, "the name of a pre-tokeniser");
  const { expressions, ignoresMerges, addsBos } = preTokenizer(name);
  const vocabulary = readVocabulary(metadata, { bosId: null, eosId: null, unknownId: null, addsBos });
  const { pieces, types } = vocabulary;
  const size = pieces.length;

  // Symbols below `size` are tokens; above are bytes and results of merges that are not in the vocabulary.
  const outside: string[] = [];
  const outsideIds = new Map<string, number>();
  const tokenOf = (piece: string): number => {
    const id = vocabulary.ids.get(piece);
    return id !== undefined && isText(types[id]!) ? id : -1;
  };
  const symbolOf = (piece: string): number => {
    const id = tokenOf(piece);
    if (id >= 0) return id;
    let symbol = outsideIds.get(piece);
    if (symbol === undefined) {
      symbol = size + outside.length;
      outside.push(piece);
      outsideIds.set(piece, symbol);
    }
    return symbol;
  };
  const textOf = (symbol: number) => (symbol < size ? pieces[symbol]! : outside[symbol - size]!);
  const byteSymbols = Int32Array.from(BYTE_CHARACTERS, symbolOf);

  const lines = strings(metadata, "tokenizer.ggml.merges");
  if (lines === null) throw bad("tokenizer.ggml.merges", "nothing", 'a list of merges "left right"');
  const ranks = new Map<string, number>();
  for (const [rank, line] of lines.entries()) {
    const space = line.indexOf(" ", 1);
    if (space < 0 || space === line.length - 1) {
      throw bad(
        "tokenizer.ggml.merges",
        `"${line}" at place ${rank}`,
        "two pieces with a space between them",
      );
    }
    if (!ranks.has(line)) ranks.set(line, rank);
  }
  // Merges are looked up by their text once, and by their two symbols from then on.
  const results = new Int32Array(lines.length);
  const found = new Map<number, number>();
  const merge = createMerger({
    find(left, right) {
      const key = left * 2 ** 26 + right;
      let rank = found.get(key);
      if (rank === undefined) {
        rank = ranks.get(`${textOf(left)} ${textOf(right)}`) ?? -1;
        if (rank >= 0) results[rank] = symbolOf(textOf(left) + textOf(right));
        if (found.size >= MAX_FOUND) found.clear();
        found.set(key, rank);
      }
      return rank;
    },
    priority: (rank) => rank,
    result: (rank) => results[rank]!,
  });

  let symbols = new Int32Array(256);
  const words = new WordCache((word: string, into: IdList): void => {
    const bytes = encodeUtf8(word);
    if (ignoresMerges) {
      const whole = tokenOf(Array.from(bytes, (byte) => BYTE_CHARACTERS[byte]!).join(""));
      if (whole >= 0) {
        into.push(whole);
        return;
      }
    }
    if (symbols.length < bytes.length) symbols = new Int32Array(bytes.length * 2);
    for (let i = 0; i < bytes.length; i++) symbols[i] = byteSymbols[bytes[i]!]!;
    const count = merge(symbols, bytes.length);
    for (let i = 0; i < count; i++) {
      const symbol = symbols[i]!;
      if (symbol < size) {
        into.push(symbol);
        continue;
      }
      for (const character of outside[symbol - size]!) {
        const id = tokenOf(character);
        if (id >= 0) into.push(id);
      }
    }
  });

  return createGgufTokenizer(vocabulary, {
    leadingSpace: false,
    encode(text, _first, into) {
      for (const word of splitWords(text, expressions)) words.encode(word, into);
    },
    bytes(id) {
      const piece = pieces[id]!;
      if (!isText(types[id]!)) return encodeUtf8(piece);
      const bytes: number[] = [];
      for (const character of piece) {
        const byte = byteOf(character);
        if (byte === undefined) bytes.push(...encodeUtf8(character));
        else bytes.push(byte);
      }
      return Uint8Array.from(bytes);
    },
  });
}

const isText = (type: number): boolean =>
  type === TOKEN_TYPE.normal || type === TOKEN_TYPE.undefined || type === TOKEN_TYPE.unused;
