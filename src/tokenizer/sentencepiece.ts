/**
 * SentencePiece's byte-pair encoding as GGUF files carry it (`tokenizer.ggml.model` = "llama": Llama 1 and 2, Mistral,
 * Gemma, Phi-3, TinyStories): spaces are written "▁", neighbours merge into the piece of the highest score, and what
 * no piece covers is written as bytes "<0xHH>", or as the unknown token where the vocabulary has no bytes.
 *
 * Source: Kudo and Richardson, "SentencePiece" (2018), and its bpe_model; merging with scores of pieces.
 */
import type { MetadataValue } from "../formats/checkpoint.js";
import { fallbackByte } from "./byte-pieces.js";
import type { Tokenizer } from "./contract.js";
import { createGgufTokenizer } from "./gguf-tokenizer.js";
import { bad, flag, readVocabulary, TOKEN_TYPE } from "./gguf-vocabulary.js";
import type { IdList } from "./id-list.js";
import { createMerger } from "./merger.js";
import { encodeUtf8 } from "./utf8.js";
import { WordCache } from "./word-cache.js";

const SPACE = "▁";

/** Throws BAD_TOKENIZER for metadata that lacks scores, contradicts itself, or can write neither bytes nor unknowns. */
export function createSentencePiece(metadata: ReadonlyMap<string, MetadataValue>): Tokenizer {
  const vocabulary = readVocabulary(metadata, { bosId: 1, eosId: 2, unknownId: 0, addsBos: true });
  const { pieces, types, scores } = vocabulary;
  if (scores === null) throw bad("tokenizer.ggml.scores", "nothing", "a score for each token");
  const size = pieces.length;
  const leadingSpace = flag(metadata, "tokenizer.ggml.add_space_prefix") ?? true;

  // Control, unknown, unused and byte pieces are never made of text.
  const mergeable = new Map<string, number>();
  let crossesSpaces = false;
  for (const [piece, id] of vocabulary.ids) {
    const type = types[id]!;
    if (type !== TOKEN_TYPE.normal && type !== TOKEN_TYPE.userDefined && type !== TOKEN_TYPE.undefined)
      continue;
    mergeable.set(piece, id);
    crossesSpaces ||= type !== TOKEN_TYPE.userDefined && /[^▁]▁/u.test(piece);
  }
  const byteIds = new Int32Array(256).fill(-1);
  pieces.forEach((piece, id) => {
    const byte = types[id] === TOKEN_TYPE.byte ? fallbackByte(piece) : -1;
    if (byte >= 0 && byteIds[byte]! < 0) byteIds[byte] = id;
    else if (byte < 0 && types[id] === TOKEN_TYPE.byte) {
      throw bad("tokenizer.ggml.tokens", `"${piece}" for the byte token ${id}`, 'the form "<0xHH>"');
    }
  });
  if (byteIds.includes(-1) && vocabulary.unknownId === null) {
    throw bad("tokenizer.ggml.tokens", "neither all 256 byte tokens nor an unknown token", "one of the two");
  }

  // Symbols below `size` are tokens; above are characters that no token covers.
  const strange: string[] = [];
  const strangeIds = new Map<string, number>();
  const symbolOf = (character: string): number => {
    const id = mergeable.get(character) ?? strangeIds.get(character);
    if (id !== undefined) return id;
    const symbol = size + strange.length;
    strange.push(character);
    strangeIds.set(character, symbol);
    return symbol;
  };
  const textOf = (symbol: number) => (symbol < size ? pieces[symbol]! : strange[symbol - size]!);

  const found = new Map<number, number>();
  const merge = createMerger({
    find(left, right) {
      const key = left * 2 ** 26 + right;
      let id = found.get(key);
      if (id === undefined) {
        id = mergeable.get(textOf(left) + textOf(right)) ?? -1;
        found.set(key, id);
      }
      return id;
    },
    priority: (id) => -scores[id]!,
    result: (id) => id,
  });

  let symbols = new Int32Array(256);
  const encodeWord = (word: string, into: IdList): void => {
    if (symbols.length < word.length) symbols = new Int32Array(word.length * 2);
    let count = 0;
    for (const character of word) symbols[count++] = symbolOf(character);
    count = merge(symbols, count);
    for (let i = 0; i < count; i++) {
      const symbol = symbols[i]!;
      if (symbol < size) {
        into.push(symbol);
        continue;
      }
      const bytes = encodeUtf8(textOf(symbol));
      if (bytes.every((byte) => byteIds[byte]! >= 0)) for (const byte of bytes) into.push(byteIds[byte]!);
      else into.push(vocabulary.unknownId!);
    }
    if (found.size > 2 ** 20) found.clear();
    if (strange.length > 2 ** 16) {
      strange.length = 0;
      strangeIds.clear();
      found.clear();
    }
  };
  const words = new WordCache(encodeWord);

  return createGgufTokenizer(vocabulary, {
    leadingSpace,
    encode(text, first, into) {
      const escaped = (leadingSpace && first ? SPACE : "") + text.replaceAll(" ", SPACE);
      // Where no piece joins a word to the "▁" of the next one, words cannot influence each other.
      if (crossesSpaces) return encodeWord(escaped, into);
      let begun = 0;
      for (let i = 1; i <= escaped.length; i++) {
        if (i < escaped.length && (escaped[i] !== SPACE || escaped[i - 1] === SPACE)) continue;
        words.encode(escaped.slice(begun, i), into);
        begun = i;
      }
    },
    bytes(id) {
      const piece = pieces[id]!;
      const type = types[id]!;
      if (type === TOKEN_TYPE.byte) return Uint8Array.of(fallbackByte(piece));
      const isText =
        type === TOKEN_TYPE.normal || type === TOKEN_TYPE.undefined || type === TOKEN_TYPE.unused;
      return encodeUtf8(isText ? piece.replaceAll(SPACE, " ") : piece);
    },
  });
}
