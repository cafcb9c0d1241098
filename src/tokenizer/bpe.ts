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
  const symbolIds = new Map<string, number>();
  for (const [piece, id] of vocabulary.ids) if (isText(types[id]!)) symbolIds.set(piece, id);
  const outside: string[] = [];
  const symbolOf = (piece: string): number => {
    let symbol = symbolIds.get(piece);
    if (symbol === undefined) {
      symbol = size + outside.length;
      outside.push(piece);
      symbolIds.set(piece, symbol);
    }
    return symbol;
  };
  const byteSymbols = Int32Array.from(BYTE_CHARACTERS, symbolOf);

  const lines = strings(metadata, "tokenizer.ggml.merges");
  if (lines === null) throw bad("tokenizer.ggml.merges", "nothing", 'a list of merges "left right"');
  const results = new Int32Array(lines.length);
  const ranks = new Map<number, number>();
  lines.forEach((line, rank) => {
    // A piece holds no space, save that the first character may be one in files of old converters.
    const space = line.indexOf(" ", 1);
    if (space < 0 || space === line.length - 1) {
      throw bad(
        "tokenizer.ggml.merges",
        `"${line}" at place ${rank}`,
        "two pieces with a space between them",
      );
    }
    const left = line.slice(0, space);
    const right = line.slice(space + 1);
    const key = symbolOf(left) * 2 ** 26 + symbolOf(right);
    if (!ranks.has(key)) ranks.set(key, rank);
    results[rank] = symbolOf(left + right);
  });
  const merge = createMerger({
    find: (left, right) => ranks.get(left * 2 ** 26 + right) ?? -1,
    priority: (rank) => rank,
    result: (rank) => results[rank]!,
  });

  let symbols = new Int32Array(256);
  const words = new WordCache((word: string, into: IdList): void => {
    const bytes = encodeUtf8(word);
    if (ignoresMerges) {
      const whole = symbolIds.get(Array.from(bytes, (byte) => BYTE_CHARACTERS[byte]!).join(""));
      if (whole !== undefined && whole < size) {
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
        const id = symbolIds.get(character) ?? size;
        if (id < size) into.push(id);
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
