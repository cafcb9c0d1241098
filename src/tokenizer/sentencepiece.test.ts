import { describe, expect, it } from "vitest";
import { ggufTokenizer } from "../../test/support/tokenizers.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import { resolveTokenizer } from "./resolve.js";

const BYTES = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
/** Pieces after <unk>, <s>, </s> and the bytes; their scores fall, so that earlier ones merge first. */
const PIECES = ["he", "ll", "▁he", "llo", "▁hello", "▁", "h", "e", "l", "o", "▁▁"];

const TOKENS = ["<unk>", "<s>", "</s>", ...BYTES, ...PIECES, "<|user|>", "<tool>"];
const TYPES = TOKENS.map((piece, id) => {
  if (id < 3) return id === 0 ? 2 : 3;
  if (id < 259) return 6;
  return piece === "<|user|>" ? 3 : piece === "<tool>" ? 4 : 1;
});

const create = (changes: Record<string, MetadataValue> = {}) =>
  ggufTokenizer({
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": TOKENS.map((_, id) => (id < 259 ? 0 : 259 - id)),
    "tokenizer.ggml.token_type": TYPES,
    ...changes,
  });
const pieces = (ids: ArrayLike<number>) => Array.from(ids, (id) => TOKENS[id]);

describe("SentencePiece from GGUF", () => {
  it("merges by score, not from left to right, and falls back to bytes", () => {
    const tokenizer = create();
    expect(pieces(tokenizer.encode("hello"))).toEqual(["<s>", "▁hello"]);
    expect(pieces(tokenizer.encode("helo"))).toEqual(["<s>", "▁he", "l", "o"]);
    expect(pieces(tokenizer.encode("hé"))).toEqual(["<s>", "▁", "h", "<0xC3>", "<0xA9>"]);
    expect(pieces(tokenizer.encode("  h"))).toEqual(["<s>", "▁▁", "▁", "h"]);
  });

  it("adds BOS and EOS as the file says", () => {
    const bare = (changes: Record<string, MetadataValue>, addSpecial = true) =>
      Array.from(create(changes).encode("", { addSpecial }));
    expect(bare({})).toEqual([1]);
    expect(bare({ "tokenizer.ggml.add_bos_token": false })).toEqual([]);
    expect(bare({ "tokenizer.ggml.add_eos_token": true })).toEqual([1, 2]);
    expect(bare({ "tokenizer.ggml.add_eos_token": true }, false)).toEqual([]);
    expect(bare({ "tokenizer.ggml.bos_token_id": 270 })).toEqual([270]);
  });

  it("puts a space before the text where the file does not deny it, and takes it away again", () => {
    const without = create({ "tokenizer.ggml.add_space_prefix": false });
    expect(pieces(without.encode("hello"))).toEqual(["<s>", "he", "llo"]);
    for (const tokenizer of [create(), without]) {
      for (const text of ["hello", " hello", "  hello ", "", " ", "héllo 😀\n"]) {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }
    }
    const [space] = create().encode("hello", { addSpecial: false });
    expect(create().decode([space!])).toBe("hello");
    expect(create().decode([1, space!, space!])).toBe("hello hello");
    expect(create().decode([1, space!], { skipSpecial: false })).toBe("<s> hello");
  });

  it("takes control tokens' names for text unless asked to, user-defined pieces always", () => {
    const tokenizer = create();
    const show = (parseSpecial: boolean) =>
      pieces(tokenizer.encode("<|user|>hello<tool>", { addSpecial: false, parseSpecial }));
    expect(show(true)).toEqual(["<|user|>", "▁hello", "<tool>"]);
    const asText = show(false);
    expect(asText).not.toContain("<|user|>");
    expect(asText.at(-1)).toBe("<tool>");
    for (const text of ["<s>", "</s>", "<unk>", "<0x41>", "<|user|>"]) {
      const ids = tokenizer.encode(text, { addSpecial: false });
      expect(Array.from(ids).some((id) => tokenizer.isSpecial(id))).toBe(false);
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });

  it("puts none before text that goes on from other text", () => {
    const [space, ...rest] = create().encode(" hello hello", { addSpecial: false });
    const continued = create().encode(" hello", { addSpecial: false, continues: true });
    expect(continued).toEqual(
      create({ "tokenizer.ggml.add_space_prefix": false }).encode(" hello", { addSpecial: false }),
    );
    expect([space, ...rest].length).toBeGreaterThan(continued.length);
  });

  it("lets Phi-3's special tokens swallow the white space behind them", () => {
    const ids = (name: string) =>
      create({ "general.name": name, "tokenizer.ggml.add_space_prefix": false }).encode(
        "<|user|>\n \thello",
        {
          addSpecial: false,
          parseSpecial: true,
        },
      );
    expect(pieces(ids("Phi-3-mini"))).toEqual(["<|user|>", "he", "llo"]);
    expect(pieces(ids("Other"))).toEqual(["<|user|>", "<0x0A>", "▁", "<0x09>", "he", "llo"]);
  });

  it("knows the tokens that end an answer, by the file's keys and by their names", () => {
    const renamed = TOKENS.map((piece) => (piece === "<|user|>" ? "<end_of_turn>" : piece));
    const tokenizer = create({ "tokenizer.ggml.tokens": renamed, "tokenizer.ggml.eot_token_id": 265n });
    expect([...tokenizer.eosIds].sort()).toEqual([2, 265, tokenizer.idOf("<end_of_turn>")]);
    expect(tokenizer.isSpecial(265)).toBe(true);
  });

  it("holds pieces that reach over spaces, where words cannot be taken one by one", () => {
    const tokens = [...TOKENS, "o▁", "o▁h"];
    const scores = tokens.map((_, id) => (id < 259 ? 0 : 259 - id));
    const types = [...TYPES, 1, 1];
    scores[tokens.indexOf("o▁")] = 100;
    scores[tokens.indexOf("o▁h")] = 99;
    const tokenizer = create({
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.scores": scores,
      "tokenizer.ggml.token_type": types,
    });
    const ids = tokenizer.encode("hello hello", { addSpecial: false });
    expect(Array.from(ids, (id) => tokens[id])).toEqual(["▁he", "ll", "o▁h", "e", "llo"]);
  });

  it("reads lone surrogates as U+FFFD", () => {
    const tokenizer = create();
    expect(tokenizer.decode(tokenizer.encode("h\ud800e"))).toBe("h\ufffde");
  });

  it("takes long texts without words in time that grows like their length", () => {
    const tokenizer = create();
    const text = "hello".repeat(40_000);
    const ids = tokenizer.encode(text);
    expect(ids.length).toBe(1 + 3 + 2 * 39_999 - 1 - 1);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  it.each<[string, Record<string, MetadataValue>, RegExp]>([
    ["no tokens", { "tokenizer.ggml.tokens": undefined }, /tokens holds nothing/],
    ["an empty list of tokens", { "tokenizer.ggml.tokens": [] }, /an empty list/],
    ["tokens that are no texts", { "tokenizer.ggml.tokens": [1, 2] }, /a number at place 0/],
    ["tokens that are no list", { "tokenizer.ggml.tokens": "x" }, /tokens holds string; expected a list/],
    ["no scores", { "tokenizer.ggml.scores": undefined }, /scores holds nothing/],
    ["too few scores", { "tokenizer.ggml.scores": [1, 2] }, /2 values; expected 272/],
    [
      "scores that are no numbers",
      { "tokenizer.ggml.scores": new Array(272).fill(Number.NaN) },
      /NaN at place 0/,
    ],
    ["too many types", { "tokenizer.ggml.token_type": new Array(300).fill(1) }, /300 values; expected 272/],
    ["unknown types", { "tokenizer.ggml.token_type": new Array(272).fill(9) }, /9 for token 0/],
    [
      "byte tokens that name no byte",
      { "tokenizer.ggml.token_type": new Array(272).fill(6) },
      /byte token 0/,
    ],
    ["a BOS outside the vocabulary", { "tokenizer.ggml.bos_token_id": 272 }, /bos_token_id holds 272/],
    [
      "BOS wanted and not named",
      { "tokenizer.ggml.bos_token_id": 0xffffffff, "tokenizer.ggml.add_bos_token": true },
      /bos_token_id holds nothing/,
    ],
    [
      "EOS wanted and not named",
      { "tokenizer.ggml.eos_token_id": -1, "tokenizer.ggml.add_eos_token": true },
      /eos_token_id holds nothing/,
    ],
    ["a flag that is none", { "tokenizer.ggml.add_bos_token": 1 }, /add_bos_token holds number/],
    ["a template that is no text", { "tokenizer.chat_template": 3 }, /chat_template holds number/],
    [
      "neither bytes nor an unknown token",
      { "tokenizer.ggml.token_type": new Array(272).fill(1), "tokenizer.ggml.unknown_token_id": 0xffffffff },
      /neither all 256 byte tokens nor an unknown/,
    ],
  ])("refuses %s", (_name, changes, message) => {
    const attempt = () => create(changes);
    expect(attempt).toThrow(expect.objectContaining({ code: "BAD_TOKENIZER" }));
    expect(attempt).toThrow(message);
  });

  it("refuses ids outside the vocabulary", () => {
    const tokenizer = create();
    for (const id of [-1, 272, 0.5, Number.NaN]) {
      for (const use of [
        () => tokenizer.decode([id]),
        () => tokenizer.tokenBytes(id),
        () => tokenizer.isSpecial(id),
      ]) {
        expect(use).toThrow(expect.objectContaining({ code: "INVALID_TOKEN" }));
      }
    }
  });
});

describe("resolveTokenizer", () => {
  it("gives null where a file has no tokenizer, and refuses unknown kinds", () => {
    expect(resolveTokenizer({ kind: "none" })).toBeNull();
    expect(resolveTokenizer({ kind: "gguf", metadata: new Map() })).toBeNull();
    const attempt = () =>
      resolveTokenizer({ kind: "gguf", metadata: new Map([["tokenizer.ggml.model", "bert"]]) });
    expect(attempt).toThrow(expect.objectContaining({ code: "UNSUPPORTED_TOKENIZER" }));
    expect(attempt).toThrow(/"bert"; known are llama and gpt2/);
  });
});
