import { describe, expect, it } from "vitest";
import { tokenizerJson } from "../../test/support/tiny-vocabulary.js";
import { bpeFixture, bpeTokenizer, spmFixture, spmTokenizer } from "../../test/support/tokenizers.js";
import { createDetokenizer } from "./detokenizer.js";
import { createHuggingFaceTokenizer } from "./huggingface.js";
import { resolveTokenizer } from "./resolve.js";
import { wellFormed } from "./utf8.js";

type Json = Record<string, unknown>;

const QWEN2 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const added = (pieces: readonly string[], types: readonly number[]) =>
  pieces.flatMap((content, id) =>
    types[id] === 1 || types[id] === 6
      ? []
      : [
          {
            id,
            content,
            special: types[id] !== 4,
            normalized: false,
            single_word: false,
            lstrip: false,
            rstrip: false,
          },
        ],
  );

/** The BPE fixture as tokenizer.json would hold it. */
function byteLevel(changes: Json = {}): Json {
  const { pieces, types, merges } = bpeFixture;
  const vocab = Object.fromEntries(pieces.flatMap((piece, id) => (types[id] === 1 ? [[piece, id]] : [])));
  return {
    version: "1.0",
    added_tokens: added(pieces, types),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: QWEN2 }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: { type: "BPE", vocab, merges, dropout: null, unk_token: null, byte_fallback: false },
    ...changes,
  };
}

/** The SentencePiece fixture as its conversion to tokenizer.json would hold it. */
function sentencePiece(): Json {
  const { pieces, types, scores } = spmFixture.vocabularies.words!;
  const ids = new Map(pieces.map((piece, id) => [piece, id]));
  const merges = pieces
    .flatMap((piece, id) =>
      types[id] !== 1
        ? []
        : Array.from(piece.slice(1), (_, at) => [piece.slice(0, at + 1), piece.slice(at + 1)] as const)
            .filter((pair) => pair.every((part) => types[ids.get(part) ?? 0] === 1))
            .map((pair) => ({ pair, score: scores[id]! })),
    )
    .sort((a, b) => b.score - a.score)
    .map(({ pair }) => pair);
  const { model, ...rest } = tokenizerJson();
  return {
    ...rest,
    added_tokens: added(pieces, types),
    model: { ...(model as Json), vocab: Object.fromEntries(ids), merges },
  };
}

describe("createHuggingFaceTokenizer", () => {
  it("gives the ids that the same byte-level BPE gives from GGUF", () => {
    const ours = bpeTokenizer("qwen2");
    const tokenizer = createHuggingFaceTokenizer(byteLevel(), {});
    for (const text of bpeFixture.strings) {
      for (const parseSpecial of [false, true]) {
        const options = { addSpecial: false, parseSpecial };
        const ids = tokenizer.encode(text, options);
        expect(Array.from(ids), JSON.stringify(text)).toEqual(Array.from(ours.encode(text, options)));
        expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(wellFormed(text));
      }
    }
    for (let id = 0; id < ours.vocabularySize; id++) {
      expect(tokenizer.tokenBytes(id)).toEqual(ours.tokenBytes(id));
      expect(tokenizer.isSpecial(id)).toBe(ours.isSpecial(id));
      expect(tokenizer.isOrdinary(id)).toBe(ours.isOrdinary(id));
    }
    expect(tokenizer.vocabularySize).toBe(ours.vocabularySize);
    expect([...tokenizer.eosIds].sort()).toEqual([...ours.eosIds].sort());
  });

  // The expressions as these models' tokenizer.json files have them; the peer's own leave out combining marks.
  it.each([
    [
      "tekken",
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      true,
    ],
    [
      "gpt-4o",
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      false,
    ],
    ["llama-bpe", QWEN2.replace("|\\p{N}|", "|\\p{N}{1,3}|"), true],
  ])("cuts words as %s does in its original expression", (name, regex, ignoreMerges) => {
    const ours = bpeTokenizer(name);
    const json = byteLevel();
    const tokenizer = createHuggingFaceTokenizer(
      {
        ...json,
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
            { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
          ],
        },
        model: { ...(json.model as Json), ignore_merges: ignoreMerges },
      },
      {},
    );
    for (const text of bpeFixture.strings) {
      const options = { addSpecial: false };
      expect(Array.from(ours.encode(text, options)), JSON.stringify(text)).toEqual(
        Array.from(tokenizer.encode(text, options)),
      );
    }
  });

  it("gives the ids that the same SentencePiece gives from GGUF, and its BOS", () => {
    const ours = spmTokenizer("words");
    const tokenizer = createHuggingFaceTokenizer(sentencePiece(), {
      bos_token: "<s>",
      eos_token: { content: "</s>" },
    });
    expect(tokenizer).toMatchObject({
      bosId: 1,
      eosId: 2,
      addsBos: true,
      addsEos: false,
      leadingSpace: true,
    });
    for (const text of spmFixture.strings) {
      // The library puts no prefix behind a special token, puts one before an empty text's end, and normalises names.
      if (text === "" || /▁|<tool>| {4}|<0x|<s>|<unk>/.test(text)) continue;
      const expected = Array.from(ours.encode(text));
      // The conversion to merges loses pieces made of characters that are no pieces.
      if (expected.some((id) => /[^\t-~▁é]/u.test(spmFixture.vocabularies.words!.pieces[id]!))) continue;
      const ids = tokenizer.encode(text);
      expect(Array.from(ids), JSON.stringify(text)).toEqual(expected);
      expect(tokenizer.decode(ids)).toBe(text);
      const detokenizer = createDetokenizer(tokenizer);
      expect(Array.from(ids, (id) => detokenizer.push(id)).join("") + detokenizer.flush()).toBe(text);
    }
    expect(tokenizer.decode(tokenizer.encode("<s> <0x41>"), { skipSpecial: true })).toContain("<s>");
  });

  it("lets tokenizer_config.json decide about BOS and EOS where it speaks", () => {
    const encode = (config: Json) =>
      Array.from(
        createHuggingFaceTokenizer(sentencePiece(), {
          bos_token: "<s>",
          eos_token: "</s>",
          ...config,
        }).encode("a"),
      );
    const plain = encode({ add_bos_token: false });
    expect(plain).not.toContain(1);
    expect(encode({})).toEqual([1, ...plain]);
    expect(encode({ add_bos_token: true, add_eos_token: true })).toEqual([1, ...plain, 2]);
  });

  it("reads the chat template, named ones included", () => {
    const template = (chat_template: unknown) =>
      createHuggingFaceTokenizer(byteLevel(), { chat_template }).chatTemplate;
    expect(template("x")).toBe("x");
    expect(template(undefined)).toBeNull();
    expect(
      template([
        { name: "tool_use", template: "t" },
        { name: "default", template: "d" },
      ]),
    ).toBe("d");
    expect(template([{ name: "rag", template: "r" }])).toBe("r");
  });

  it("is what resolveTokenizer makes of a folder's tokenizer", () => {
    const tokenizer = resolveTokenizer({ kind: "huggingface", tokenizer: byteLevel(), config: {} })!;
    expect(tokenizer.decode(tokenizer.encode("Hello, world"))).toBe("Hello, world");
  });

  it.each<[string, Json, Json, string, RegExp]>([
    ["no model", byteLevel({ model: undefined }), {}, "BAD_TOKENIZER", /tokenizer\.json/],
    [
      "a kind of model that is not known",
      byteLevel({ model: { type: "Other" } }),
      {},
      "UNSUPPORTED_TOKENIZER",
      /Other/,
    ],
    [
      "added tokens that are none",
      byteLevel({ added_tokens: [{ content: "x" }] }),
      {},
      "BAD_TOKENIZER",
      /added_tokens/,
    ],
    [
      "a BOS that the vocabulary lacks",
      byteLevel(),
      { bos_token: "<nil>" },
      "BAD_TOKENIZER",
      /bos_token is "<nil>"/,
    ],
    [
      "WordPiece",
      byteLevel({ decoder: { type: "WordPiece", prefix: "##" } }),
      {},
      "UNSUPPORTED_TOKENIZER",
      /WordPiece/,
    ],
    ["no decoder", byteLevel({ decoder: null }), {}, "UNSUPPORTED_TOKENIZER", /decoder is none/],
  ])("refuses %s", (_name, json, config, code, message) => {
    expect(() => createHuggingFaceTokenizer(json, config)).toThrow(expect.objectContaining({ code }));
    expect(() => createHuggingFaceTokenizer(json, config)).toThrow(message);
  });
});
