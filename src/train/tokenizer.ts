/**
 * Training a byte-level BPE tokenizer from text, to the GGUF keys that carry it. Every byte is a token, so every text
 * can be written; merges are learned within words, as `tokenizer.ggml.pre` cuts them (src/tokenizer/pre-tokenizers.ts).
 */
import { MillraceError } from "../errors.js";
import { array, bool, type GgufValue, string, u32 } from "../formats/gguf-values.js";
import { BYTE_CHARACTERS } from "../tokenizer/byte-pieces.js";
import { TOKEN_TYPE } from "../tokenizer/gguf-vocabulary.js";
import { preTokenizer, splitWords } from "../tokenizer/pre-tokenizers.js";
import { SpecialMatcher } from "../tokenizer/special-tokens.js";
import { encodeUtf8, wellFormed } from "../tokenizer/utf8.js";
import { learnMerges } from "./merges.js";

export interface TokenizerTrainingOptions {
  /** Tokens in all: special ones, 256 bytes, and merges. */
  readonly vocabularySize: number;
  /** Put before every text; default "<s>". */
  readonly bos?: string;
  /** Ends a document; default "</s>". */
  readonly eos?: string;
  /** Ends a turn of a conversation, where that is another token than `eos`. */
  readonly eot?: string;
  /** Names of further control tokens, such as those of a chat template. */
  readonly control?: readonly string[];
  /** Jinja source. */
  readonly chatTemplate?: string;
  /** A name of `tokenizer.ggml.pre`; default "gpt-2". */
  readonly preTokenizer?: string;
  /** A pair of pieces that occurs less often is not merged; default 2. */
  readonly minCount?: number;
}

/**
 * The keys `tokenizer.ggml.*` (and `tokenizer.chat_template`) of a tokenizer trained on `texts`. Special tokens have
 * the first ids (BOS is 0, EOS 1), then come the 256 bytes in order, then what merges make. Words do not run on from
 * one text to the next, and names of special tokens in a text are left out. Fewer tokens than asked for come out where
 * the text has no more pairs that occur `minCount` times.
 *
 * Throws INVALID_ARGUMENT for a vocabulary too small for its bytes and special tokens, for a special token's name that
 * is empty or there twice, and for texts without a word; UNSUPPORTED_TOKENIZER for an unknown pre-tokeniser.
 */
export async function trainTokenizer(
  texts: Iterable<string> | AsyncIterable<string>,
  options: TokenizerTrainingOptions,
): Promise<Record<string, GgufValue>> {
  const { bos = "<s>", eos = "</s>", eot, control = [], chatTemplate, minCount = 2 } = options;
  const pre = options.preTokenizer ?? "gpt-2";
  const special = [bos, eos, ...(eot === undefined ? [] : [eot]), ...control];
  check(
    special.every((name) => name !== "") && new Set(special).size === special.length,
    "special tokens",
    special.join(", "),
    "names that are there once and not empty",
  );
  const fixed = special.length + BYTE_CHARACTERS.length;
  const { vocabularySize } = options;
  check(
    Number.isSafeInteger(vocabularySize) && vocabularySize >= fixed && vocabularySize < 2 ** 24,
    "vocabularySize",
    String(vocabularySize),
    `a whole number from ${fixed} (${special.length} special tokens and 256 bytes) to ${2 ** 24 - 1}`,
  );
  check(
    Number.isSafeInteger(minCount) && minCount >= 1,
    "minCount",
    String(minCount),
    "a whole number of at least 1",
  );

  const counts = await countWords(texts, pre, special);
  check(counts.size > 0, "texts", "no word", "text to train on");
  const pieces = [...special, ...BYTE_CHARACTERS];
  const merges = learnMerges({
    words: Array.from(counts.keys(), (word) =>
      Int32Array.from(encodeUtf8(word), (byte) => special.length + byte),
    ),
    counts: [...counts.values()],
    pieces,
    size: vocabularySize,
    minCount,
  });
  const types = pieces.map((_, id) => (id < special.length ? TOKEN_TYPE.control : TOKEN_TYPE.normal));
  return {
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.pre": string(pre),
    "tokenizer.ggml.tokens": array("string", pieces),
    "tokenizer.ggml.token_type": array("i32", types),
    "tokenizer.ggml.merges": array(
      "string",
      merges.map(({ left, right }) => `${pieces[left]} ${pieces[right]}`),
    ),
    "tokenizer.ggml.bos_token_id": u32(0),
    "tokenizer.ggml.eos_token_id": u32(1),
    ...(eot === undefined ? {} : { "tokenizer.ggml.eot_token_id": u32(2) }),
    "tokenizer.ggml.add_bos_token": bool(true),
    "tokenizer.ggml.add_eos_token": bool(false),
    ...(chatTemplate === undefined ? {} : { "tokenizer.chat_template": string(chatTemplate) }),
  };
}

/** How often each word stands in the texts, special tokens' names left out. */
async function countWords(
  texts: Iterable<string> | AsyncIterable<string>,
  pre: string,
  special: readonly string[],
): Promise<Map<string, number>> {
  const { expressions } = preTokenizer(pre);
  const matcher = new SpecialMatcher(
    special.map((name, id) => [name, id]),
    () => false,
  );
  const counts = new Map<string, number>();
  for await (const text of texts) {
    for (const fragment of matcher.split(wellFormed(text))) {
      if (typeof fragment === "number") continue;
      for (const word of splitWords(fragment, expressions)) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

function check(holds: boolean, name: string, got: string, expected: string): void {
  if (holds) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `Training a tokenizer: ${name}: got ${got}; expected ${expected}.`,
    {
      name,
      got,
      expected,
    },
  );
}
