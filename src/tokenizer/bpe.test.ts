import { describe, expect, it } from "vitest";
import { ggufTokenizer } from "../../test/support/tokenizers.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import { BYTE_CHARACTERS } from "./byte-pieces.js";

const MERGES = ["l l", "h e", "he ll", "hell o", "Ġ hello", "o o"];
const PIECES = [
  ...BYTE_CHARACTERS,
  ...MERGES.map((merge) => merge.replace(" ", "")),
  "<|im_end|>",
  "<think>",
];

const create = (changes: Record<string, MetadataValue> = {}) =>
  ggufTokenizer({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": PIECES.map((piece) => (piece === "<think>" ? 4 : 1)),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 0,
    ...changes,
  });
const split = (tokenizer: ReturnType<typeof create>, text: string, parseSpecial = false) =>
  Array.from(tokenizer.encode(text, { addSpecial: false, parseSpecial }), (id) => PIECES[id]);

describe("byte-level BPE from GGUF", () => {
  it("merges in the order of the ranks, within words", () => {
    const tokenizer = create();
    expect(split(tokenizer, "hello hello")).toEqual(["hello", "Ġhello"]);
    expect(split(tokenizer, "hellooo")).toEqual(["hello", "oo"]);
    expect(split(tokenizer, "hell ohello")).toEqual(["hell", "Ġ", "o", "hello"]);
    expect(split(tokenizer, "é")).toEqual(["Ã", "©"]);
  });

  it("takes whole words that are tokens where the pre-tokeniser says so", () => {
    const changes = { "tokenizer.ggml.merges": ["l l"] };
    expect(split(create(changes), "hello")).toEqual(["h", "e", "ll", "o"]);
    expect(split(create({ ...changes, "tokenizer.ggml.pre": "llama-bpe" }), "hello")).toEqual(["hello"]);
  });

  it("adds BOS by the file's word, else by the pre-tokeniser's family", () => {
    const first = (changes: Record<string, MetadataValue>) => Array.from(create(changes).encode(""));
    expect(first({})).toEqual([]);
    expect(first({ "tokenizer.ggml.add_bos_token": true })).toEqual([0]);
    expect(first({ "tokenizer.ggml.pre": "llama-bpe" })).toEqual([0]);
    expect(first({ "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": false })).toEqual([]);
    expect(first({ "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": undefined })).toEqual(
      [],
    );
  });

  it("knows end-of-turn tokens by name, even where the file calls them text", () => {
    const tokenizer = create();
    const id = tokenizer.idOf("<|im_end|>")!;
    expect([...tokenizer.eosIds]).toEqual([id]);
    expect(tokenizer.isSpecial(id)).toBe(true);
    expect(tokenizer.decode([id])).toBe("");
    expect(tokenizer.decode([id], { skipSpecial: false })).toBe("<|im_end|>");
    expect(split(tokenizer, "<|im_end|>", true)).toEqual(["<|im_end|>"]);
    expect(split(tokenizer, "<|im_end|>")).not.toContain("<|im_end|>");
    expect(split(tokenizer, "a<think>")).toEqual(["a", "<think>"]);
    expect(tokenizer.decode(tokenizer.encode("a<think>"))).toBe("a<think>");
  });

  it("falls back to bytes where a merge's result is no token", () => {
    const tokenizer = create({ "tokenizer.ggml.merges": ["x y", ...MERGES] });
    expect(split(tokenizer, "xy")).toEqual(["x", "y"]);
    expect(tokenizer.decode(tokenizer.encode("xy hello"))).toBe("xy hello");
  });

  it("holds every byte", () => {
    const tokenizer = create();
    for (let byte = 0; byte < 256; byte++) {
      expect(Array.from(tokenizer.tokenBytes(tokenizer.idOf(BYTE_CHARACTERS[byte]!)!))).toEqual([byte]);
    }
  });

  it("takes long words in time that grows like their length times its logarithm", () => {
    const tokenizer = create();
    const text = "hello".repeat(100_000);
    expect(tokenizer.encode(text).length).toBe(100_000);
  });

  it.each<[string, Record<string, MetadataValue>, string, RegExp]>([
    [
      "an unknown pre-tokeniser",
      { "tokenizer.ggml.pre": "x9" },
      "UNSUPPORTED_TOKENIZER",
      /"x9"; known are default, gpt-2/,
    ],
    ["a pre-tokeniser that is no name", { "tokenizer.ggml.pre": 3 }, "BAD_TOKENIZER", /pre holds number/],
    ["no merges", { "tokenizer.ggml.merges": undefined }, "BAD_TOKENIZER", /merges holds nothing/],
    ["a merge of one piece", { "tokenizer.ggml.merges": ["a b", "ab"] }, "BAD_TOKENIZER", /"ab" at place 1/],
    [
      "a merge with nothing on the right",
      { "tokenizer.ggml.merges": ["a "] },
      "BAD_TOKENIZER",
      /"a " at place 0/,
    ],
    ["merges that are no texts", { "tokenizer.ggml.merges": [1] }, "BAD_TOKENIZER", /a number at place 0/],
  ])("refuses %s", (_name, changes, code, message) => {
    expect(() => create(changes)).toThrow(expect.objectContaining({ code }));
    expect(() => create(changes)).toThrow(message);
  });
});
