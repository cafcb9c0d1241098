import { describe, expect, it } from "vitest";
import type { MetadataValue } from "../formats/checkpoint.js";
import { type GgufValue, plainValue } from "../formats/gguf-values.js";
import { createBytePairEncoding } from "../tokenizer/bpe.js";
import { createHuggingFaceTokenizer } from "../tokenizer/huggingface.js";
import { trainTokenizer } from "./tokenizer.js";

const TEXT = [
  "The harbour master's boat carried the brass key to the pier; the key lay on the pier all day.",
  "Where is the brass key now? Anna carried 12 crates and 7 keys. L'été à Zürich — naïve café 漢字 😀.",
  "she sells sea shells on the sea shore, the shells she sells are sea shells for sure",
  "  indented\n\n\tlines   and spaces  \n",
  "aaaa aaaaaaa aaa aa abababab bababa abcabc bcbc abc abcd bcd",
];

const plain = (metadata: Record<string, GgufValue>): Map<string, MetadataValue> =>
  new Map(Object.entries(metadata).map(([key, value]) => [key, plainValue(value)]));
const list = (metadata: Record<string, GgufValue>, name: string) =>
  plainValue(metadata[`tokenizer.ggml.${name}`]!) as string[];

describe("trainTokenizer", () => {
  it("merges the most frequent pair first, ties by the lower symbols", async () => {
    const metadata = await trainTokenizer(["ab ab ab cd cd cd xy"], { vocabularySize: 2 + 256 + 4 });
    // " a" 2 times, "ab" 3, " c" 3, "cd" 3: symbols are ordered by byte, so "Ġc" goes before "ab" and "cd".
    expect(list(metadata, "merges")).toEqual(["Ġ c", "a b", "Ġc d", "Ġ ab"]);
    expect(list(metadata, "tokens").slice(-4)).toEqual(["Ġc", "ab", "Ġcd", "Ġab"]);
  });

  it("stops where no pair is frequent enough", async () => {
    const metadata = await trainTokenizer(["ab ab"], { vocabularySize: 1000 });
    expect(list(metadata, "merges")).toEqual(["a b"]);
    expect(list(metadata, "tokens")).toHaveLength(2 + 256 + 1);
  });

  it("depends on the words alone, not on their order or on how the text arrives", async () => {
    const options = { vocabularySize: 400 };
    const whole = await trainTokenizer(TEXT, options);
    expect(await trainTokenizer(TEXT.toReversed(), options)).toEqual(whole);
    async function* stream() {
      yield* TEXT;
    }
    expect(await trainTokenizer(stream(), options)).toEqual(whole);
  });

  it("gives a tokenizer that writes every text and keeps special tokens out of it", async () => {
    const metadata = await trainTokenizer([...TEXT, "<|turn|>user<|turn|>user<|turn|>user"], {
      vocabularySize: 400,
      bos: "<|start|>",
      eos: "<|endoftext|>",
      eot: "<|im_end|>",
      control: ["<|turn|>"],
      chatTemplate: "{{ messages[0].content }}",
    });
    const tokenizer = createBytePairEncoding(plain(metadata));
    const tokens = list(metadata, "tokens");
    expect(tokenizer.vocabularySize).toBe(tokens.length);
    expect(new Set(tokens).size).toBe(tokens.length);
    expect(tokens.slice(0, 4)).toEqual(["<|start|>", "<|endoftext|>", "<|im_end|>", "<|turn|>"]);
    expect(tokens.some((token, id) => id >= 4 && token.includes("<|"))).toBe(false);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.addsBos, tokenizer.addsEos]).toEqual([
      0,
      1,
      true,
      false,
    ]);
    expect([...tokenizer.eosIds].sort()).toEqual([1, 2]);
    expect(tokenizer.chatTemplate).toBe("{{ messages[0].content }}");
    for (const text of [...TEXT, "unseen: Ω≈ç√∫˜µ≤ \u0000\u007f 🚢"]) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
    expect([...tokenizer.encode("<|turn|>", { parseSpecial: true })]).toEqual([0, 3]);
  });

  it("means the same to another implementation", async () => {
    const metadata = await trainTokenizer(TEXT, { vocabularySize: 420 });
    const tokens = list(metadata, "tokens");
    const other = createHuggingFaceTokenizer(
      {
        version: "1.0",
        added_tokens: tokens.slice(0, 2).map((content, id) => ({ id, content, special: true })),
        normalizer: null,
        pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
        post_processor: null,
        decoder: { type: "ByteLevel" },
        model: {
          type: "BPE",
          vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
          merges: list(metadata, "merges").map((line) => line.split(" ")),
        },
      },
      {},
    );
    const ours = createBytePairEncoding(plain(metadata));
    for (const text of [...TEXT, "Unseen words: the harbourmaster shelled abcabcabc aaaaab 123 it's"]) {
      expect([...ours.encode(text, { addSpecial: false })]).toEqual([
        ...other.encode(text, { addSpecial: false }),
      ]);
    }
  });

  it("refuses what cannot become a tokenizer", async () => {
    const reject = (texts: string[], options: Parameters<typeof trainTokenizer>[1]) =>
      expect(trainTokenizer(texts, options)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await reject(TEXT, { vocabularySize: 257 });
    await reject(TEXT, { vocabularySize: 300.5 });
    await reject(TEXT, { vocabularySize: 300, control: ["<s>"] });
    await reject(TEXT, { vocabularySize: 300, bos: "" });
    await reject(TEXT, { vocabularySize: 300, minCount: 0 });
    await reject([], { vocabularySize: 300 });
    await reject(["", "<s>"], { vocabularySize: 300 });
    await expect(trainTokenizer(TEXT, { vocabularySize: 300, preTokenizer: "none" })).rejects.toMatchObject({
      code: "UNSUPPORTED_TOKENIZER",
    });
  });
});
