/** A GGUF file's tokenizer as tokenizer.json and tokenizer_config.json, which the transformers library reads. */
import { MillraceError } from "../errors.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import {
  flag,
  type GgufVocabulary,
  readVocabulary,
  strings,
  TOKEN_TYPE,
} from "../tokenizer/gguf-vocabulary.js";
import { preTokenizer } from "../tokenizer/pre-tokenizers.js";

type Json = Record<string, unknown>;
type Metadata = ReadonlyMap<string, MetadataValue>;

/** The files by name; none where the model has no tokenizer. Throws UNSUPPORTED_TOKENIZER, BAD_TOKENIZER. */
export function huggingFaceTokenizer(metadata: Metadata): Record<string, Json> {
  const model = metadata.get("tokenizer.ggml.model");
  if (model === undefined || model === "none") return {};
  if (model !== "gpt2" && model !== "llama") {
    throw new MillraceError(
      "UNSUPPORTED_TOKENIZER",
      `The tokenizer is "${String(model)}"; those that can be written as tokenizer.json are gpt2 and llama.`,
      { got: String(model), expected: ["gpt2", "llama"] },
    );
  }
  const name = String(metadata.get("tokenizer.ggml.pre") ?? "default");
  const ids = { bosId: 1, eosId: 2, unknownId: 0 };
  const vocabulary = readVocabulary(
    metadata,
    model === "llama"
      ? { ...ids, addsBos: true }
      : { bosId: null, eosId: null, unknownId: null, addsBos: preTokenizer(name).addsBos },
  );
  const { pieces, types, bosId, eosId, unknownId } = vocabulary;
  const piece = (id: number | null) => (id === null ? null : pieces[id]!);
  const added = pieces.flatMap((content, id) => {
    const special = types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.unknown;
    if (!special && types[id] !== TOKEN_TYPE.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
  const parts = model === "llama" ? sentencePieceParts(metadata, vocabulary) : byteLevelParts(metadata, name);
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: surroundings(vocabulary),
      decoder: parts.decoder,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: piece(unknownId),
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: model === "llama",
        byte_fallback: model === "llama",
        ignore_merges: parts.ignoresMerges,
        vocab: Object.fromEntries(pieces.map((text, id) => [text, id])),
        merges: parts.merges,
      },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      add_bos_token: vocabulary.addsBos,
      add_eos_token: vocabulary.addsEos,
      ...(bosId === null ? {} : { bos_token: piece(bosId) }),
      ...(eosId === null ? {} : { eos_token: piece(eosId) }),
      ...(unknownId === null ? {} : { unk_token: piece(unknownId) }),
      ...(vocabulary.chatTemplate === null ? {} : { chat_template: vocabulary.chatTemplate }),
      clean_up_tokenization_spaces: false,
    },
  };
}

interface Parts {
  readonly normalizer: Json | null;
  readonly preTokenizer: Json | null;
  readonly decoder: Json;
  readonly merges: readonly (readonly [string, string])[];
  readonly ignoresMerges: boolean;
}

function byteLevelParts(metadata: Metadata, name: string): Parts {
  const { expressions, ignoresMerges } = preTokenizer(name);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    normalizer: null,
    preTokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...expressions.map(({ source }) => ({
          type: "Split",
          pattern: { Regex: source },
          behavior: "Isolated",
          invert: false,
        })),
        byteLevel,
      ],
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    merges: (strings(metadata, "tokenizer.ggml.merges") ?? []).map((line) => {
      const space = line.indexOf(" ", 1);
      return [line.slice(0, space), line.slice(space + 1)] as const;
    }),
    ignoresMerges,
  };
}

/** SentencePiece merges whatever makes a piece, the best score first; here every way to make one is a merge. */
function sentencePieceParts(metadata: Metadata, { pieces, types, scores, ids }: GgufVocabulary): Parts {
  const prefix = flag(metadata, "tokenizer.ggml.add_space_prefix") ?? true;
  const merges: { pair: [string, string]; score: number; left: number; right: number }[] = [];
  const isNormal = (id: number | undefined): id is number =>
    id !== undefined && types[id] === TOKEN_TYPE.normal;
  for (const [id, piece] of pieces.entries()) {
    if (!isNormal(id)) continue;
    const characters = [...piece];
    for (let cut = 1; cut < characters.length; cut++) {
      const pair: [string, string] = [characters.slice(0, cut).join(""), characters.slice(cut).join("")];
      const [left, right] = [ids.get(pair[0]), ids.get(pair[1])];
      if (isNormal(left) && isNormal(right)) merges.push({ pair, score: scores?.[id] ?? 0, left, right });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
  return {
    normalizer: prefix
      ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, replace] }
      : replace,
    preTokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    merges: merges.map(({ pair }) => pair),
    ignoresMerges: false,
  };
}

/** Puts BOS before a text and EOS behind it, where the file asks for that. */
function surroundings({ pieces, bosId, eosId, addsBos, addsEos }: GgufVocabulary): Json | null {
  const around = (before: number | null, after: number | null, text: string, type: number) => [
    ...(before === null ? [] : [{ SpecialToken: { id: pieces[before], type_id: type } }]),
    { Sequence: { id: text, type_id: type } },
    ...(after === null ? [] : [{ SpecialToken: { id: pieces[after], type_id: type } }]),
  ];
  const before = addsBos ? bosId : null;
  const after = addsEos ? eosId : null;
  if (before === null && after === null) return null;
  const special = [before, after].filter((id) => id !== null);
  return {
    type: "TemplateProcessing",
    single: around(before, after, "A", 0),
    pair: [...around(before, after, "A", 0), ...around(before, after, "B", 1)],
    special_tokens: Object.fromEntries(
      special.map((id) => [pieces[id], { id: pieces[id], ids: [id], tokens: [pieces[id]] }]),
    ),
  };
}
