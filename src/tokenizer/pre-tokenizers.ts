/**
 * The pre-tokenisers that `tokenizer.ggml.pre` names: how each cuts a text into the words within which byte-level BPE
 * merges. A pre-tokeniser is a list of expressions; each in turn cuts every part that the ones before left into its
 * matches and what lies between them. Source: the `pre_tokenizer` of each family's tokenizer.json.
 *
 * `\s` there is Unicode's White_Space, which JavaScript's `\s` is not (U+0085, U+FEFF); `(?i:...)` is written out.
 */
import { MillraceError } from "../errors.js";

export interface PreTokenizer {
  readonly expressions: readonly RegExp[];
  /** A word that is a token as a whole is taken as that token, whatever the merges say. */
  readonly ignoresMerges: boolean;
  /** Whether BOS is added where the file does not say. */
  readonly addsBos: boolean;
}

interface Entry {
  readonly names: readonly string[];
  readonly expressions: readonly string[];
  readonly ignoresMerges?: true;
  readonly addsBos?: true;
}

const CONTRACTION = "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])";
const BLANKS = "\\s+(?!\\S)|\\s+";
const GPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|${BLANKS}`;

/** The shape that cl100k began: contractions in either case, one odd character before a word, lines kept together. */
const cl100k = (
  digits: string,
  { letters = "\\p{L}+", symbols = "[^\\s\\p{L}\\p{N}]+[\\r\\n]*" } = {},
): string => `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?${letters}|${digits}| ?${symbols}|\\s*[\\r\\n]+|${BLANKS}`;

/** The shape that o200k began: words are also cut where lower case gives way to upper. */
const o200k = (digits: string, contraction = ""): string => {
  const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
  const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
  const lead = "[^\\r\\n\\p{L}\\p{N}]?";
  const words = `${lead}${upper}*${lower}+${contraction}|${lead}${upper}+${lower}*${contraction}`;
  return `${words}|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|${BLANKS}`;
};

/** The letters with case that DeepSeek's first tokenizer lists. */
const CASED =
  "A-Za-z" +
  "\\u00b5\\u00c0-\\u00d6\\u00d8-\\u00f6\\u00f8-\\u01ba\\u01bc-\\u01bf\\u01c4-\\u0293\\u0295-\\u02af\\u0370-\\u0373" +
  "\\u0376\\u0377\\u037b-\\u037d\\u037f\\u0386\\u0388-\\u038a\\u038c\\u038e-\\u03a1\\u03a3-\\u03f5\\u03f7-\\u0481" +
  "\\u048a-\\u052f\\u0531-\\u0556\\u10a0-\\u10c5\\u13a0-\\u13f5\\u13f8-\\u13fd\\u1c90-\\u1cba\\u1cbd-\\u1cbf" +
  "\\u1d00-\\u1d2b\\u1d6b-\\u1d77\\u1d79-\\u1d9a\\u1e00-\\u1f15\\u1f18-\\u1f1d\\u1f20-\\u1f45\\u1f48-\\u1f4d" +
  "\\u1f50-\\u1f57\\u1f59\\u1f5b\\u1f5d\\u1f5f-\\u1f7d\\u1f80-\\u1fb4\\u1fb6-\\u1fbc\\u1fbe\\u1fc2-\\u1fc4\\u1fc6-\\u1fcc" +
  "\\u1fd0-\\u1fd3\\u1fd6-\\u1fdb\\u1fe0-\\u1fec\\u1ff2-\\u1ff4\\u1ff6-\\u1ffc\\u2102\\u2107\\u210a-\\u2113\\u2115" +
  "\\u2119-\\u211d\\u2124\\u2126\\u2128\\u212a-\\u212d\\u212f-\\u2134\\u2139\\u213c-\\u213f\\u2145-\\u2149\\u214e" +
  "\\u2183\\u2184\\u2c00-\\u2c7b\\u2c7e-\\u2ce4\\u2ceb-\\u2cee\\u2cf2\\u2cf3\\ua640-\\ua66d\\ua680-\\ua69b\\ua722-\\ua76f" +
  "\\ua771-\\ua787\\ua78b-\\ua78e\\uab70-\\uabbf\\ufb00-\\ufb06\\ufb13-\\ufb17\\uff21-\\uff3a\\uff41-\\uff5a" +
  "\\u{10400}-\\u{1044f}\\u{104b0}-\\u{104d3}\\u{104d8}-\\u{104fb}\\u{10c80}-\\u{10cb2}\\u{10cc0}-\\u{10cf2}" +
  "\\u{118a0}-\\u{118df}\\u{1e900}-\\u{1e943}";
const ASCII_PUNCTUATION = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]";
const IDEOGRAPHS = "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+";
const SENTENCE_PARTS = " ?[^(\\s|.,!?\\u2026\\u3002\\uff0c\\u3001\\u0964\\u06d4\\u060c)]+";

const ENTRIES: readonly Entry[] = [
  { names: ["default"], expressions: ["[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"] },
  {
    names: [
      "gpt-2",
      "phi-2",
      "mpt",
      "olmo",
      "jais",
      "exaone4",
      "mellum",
      "modern-bert",
      "gigachat",
      "a.x-4.0",
      "trillion",
      "granite-docling",
    ],
    expressions: [GPT2],
  },
  {
    names: ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    expressions: [cl100k("\\p{N}{1,3}")],
    ignoresMerges: true,
    addsBos: true,
  },
  { names: ["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], expressions: [cl100k("\\p{N}{1,3}")] },
  {
    names: ["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "grok-2", "solar-open"],
    expressions: [cl100k("\\p{N}")],
  },
  {
    names: ["qwen35"],
    expressions: [
      cl100k("\\p{N}", { letters: "[\\p{L}\\p{M}]+", symbols: "[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" }),
    ],
  },
  { names: ["seed-coder"], expressions: [cl100k("\\p{N}", { symbols: "[^\\s\\p{L}\\p{N}\\r\\n]+" })] },
  { names: ["tekken"], expressions: [o200k("\\p{N}")], ignoresMerges: true, addsBos: true },
  {
    names: ["gpt-4o", "llama4", "kanana2", "minimax-m2"],
    expressions: [o200k("\\p{N}{1,3}", `(?:${CONTRACTION})?`)],
  },
  { names: ["falcon"], expressions: ["[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"] },
  {
    names: ["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
    expressions: ["\\p{N}", GPT2],
  },
  {
    names: ["deepseek-llm"],
    expressions: [
      "[\\r\\n]",
      `\\s?[${CASED}]+`,
      "\\s?[!-/:-~\\uff01-\\uff0f\\uff1a-\\uff5e\\u2018-\\u201f\\u3000-\\u3002]+",
      "\\s+$",
      IDEOGRAPHS,
      "\\p{N}+",
    ],
  },
  {
    names: ["deepseek-coder"],
    expressions: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", IDEOGRAPHS, "\\p{N}"],
  },
  {
    names: ["deepseek-v3", "hunyuan-dense", "joyai-llm"],
    expressions: [
      "\\p{N}{1,3}",
      "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+",
      `${ASCII_PUNCTUATION}[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|${BLANKS}`,
    ],
  },
  { names: ["bloom", "poro-chat", "gpt3-finnish"], expressions: [SENTENCE_PARTS] },
  { names: ["viking"], expressions: [SENTENCE_PARTS, "\\p{N}"] },
];

/** Every name that `tokenizer.ggml.pre` may hold. */
export const PRE_TOKENIZER_NAMES: readonly string[] = ENTRIES.flatMap((entry) => entry.names);

const compile = (source: string): RegExp =>
  new RegExp(source.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");

/** Throws UNSUPPORTED_TOKENIZER, naming the known ones, where `name` is not among them. */
export function preTokenizer(name: string): PreTokenizer {
  const entry = ENTRIES.find((candidate) => candidate.names.includes(name));
  if (entry === undefined) {
    throw new MillraceError(
      "UNSUPPORTED_TOKENIZER",
      `The checkpoint's pre-tokeniser is "${name}"; known are ${PRE_TOKENIZER_NAMES.join(", ")}. ` +
        "Token ids can still be given directly.",
      { got: name, expected: PRE_TOKENIZER_NAMES },
    );
  }
  return {
    expressions: entry.expressions.map(compile),
    ignoresMerges: entry.ignoresMerges ?? false,
    addsBos: entry.addsBos ?? false,
  };
}

/**
 * The words of `text` in order; joined they are `text`. Throws INVALID_ARGUMENT for a text with an unbroken run of
 * millions of characters, which the expressions cannot step over.
 */
export function splitWords(text: string, expressions: readonly RegExp[]): string[] {
  try {
    return expressions.reduce((words, expression) => words.flatMap((word) => cut(word, expression)), [text]);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "The text holds a run of millions of characters without a break between words. Give it in parts.",
      { name: "text", got: `${text.length} characters`, expected: "words of at most a million characters" },
      { cause: error },
    );
  }
}

function cut(text: string, expression: RegExp): string[] {
  const parts: string[] = [];
  let begun = 0;
  for (const match of text.matchAll(expression)) {
    if (match[0] === "") continue;
    if (match.index > begun) parts.push(text.slice(begun, match.index));
    parts.push(match[0]);
    begun = match.index + match[0].length;
  }
  if (begun < text.length) parts.push(text.slice(begun));
  return parts;
}
