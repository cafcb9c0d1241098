/**
 * The vocabulary of the tiny models, SentencePiece style with byte fallback: <unk>, <s>, </s>, all bytes, letters and
 * a few pieces, <|endoftext|>. As GGUF keys and as tokenizer.json.
 */
import { array, type GgufValue, string, u32 } from "../../src/formats/gguf-values.js";

export const VOCABULARY = 320;

const LETTERS = [..."▁etaoinshrdlcumwfgypbvkxjqzETAOINSHR.,!?'-0123456789"];
/** Pairs that merge, the most eager first. */
const MERGES = ["▁ t", "▁ a", "h e", "▁t he", "i n", "e r", "a n", "▁ s"];
const BYTES = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
);
const CONTROL = ["<unk>", "<s>", "</s>"];
const LAST = "<|endoftext|>";
const TOKENS = [...CONTROL, ...BYTES, ...LETTERS, ...MERGES.map((pair) => pair.replace(" ", "")), LAST];
const FIRST_PIECE = CONTROL.length + BYTES.length;

/** Keys `tokenizer.ggml.*`. */
export function ggufVocabulary(): Record<string, GgufValue> {
  if (TOKENS.length !== VOCABULARY || new Set(TOKENS).size !== VOCABULARY) {
    throw new Error(`The tiny vocabulary has ${new Set(TOKENS).size} tokens, expected ${VOCABULARY}`);
  }
  const last = VOCABULARY - 1;
  const scores = TOKENS.map((_, id) => (id < FIRST_PIECE || id === last ? 0 : FIRST_PIECE - id));
  const types = TOKENS.map((_, id) => (id === 0 ? 2 : id < 3 || id === last ? 3 : id < FIRST_PIECE ? 6 : 1));
  return {
    "tokenizer.ggml.model": string("llama"),
    "tokenizer.ggml.tokens": array("string", TOKENS),
    "tokenizer.ggml.scores": array("f32", scores),
    "tokenizer.ggml.token_type": array("i32", types),
    "tokenizer.ggml.bos_token_id": u32(1),
    "tokenizer.ggml.eos_token_id": u32(2),
    "tokenizer.ggml.unknown_token_id": u32(0),
  };
}

/** tokenizer.json as the transformers library writes it for SentencePiece vocabularies. */
export function tokenizerJson(): Record<string, unknown> {
  const special = (content: string) => ({
    id: TOKENS.indexOf(content),
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [...CONTROL, LAST].map(special),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(TOKENS.map((token, id) => [token, id])),
      merges: MERGES,
    },
  };
}

/** tokenizer_config.json. */
export function tokenizerConfig(): Record<string, unknown> {
  return {
    tokenizer_class: "LlamaTokenizer",
    add_bos_token: true,
    add_eos_token: false,
    bos_token: "<s>",
    eos_token: "</s>",
    unk_token: "<unk>",
  };
}
