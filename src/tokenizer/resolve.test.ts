import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { bpeFixture, spmFixture } from "../../test/support/tokenizers.js";
import { MillraceError } from "../errors.js";
import type { MetadataValue } from "../formats/checkpoint.js";
import { resolveTokenizer } from "./resolve.js";

const { pieces, types, scores } = spmFixture.vocabularies.words!;
const files: readonly Record<string, MetadataValue>[] = [
  {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": pieces,
    "tokenizer.ggml.scores": scores,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.add_space_prefix": true,
    "tokenizer.chat_template": "{{ bos_token }}",
  },
  {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": bpeFixture.pieces,
    "tokenizer.ggml.token_type": bpeFixture.types,
    "tokenizer.ggml.merges": bpeFixture.merges,
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.add_bos_token": false,
  },
];

const oddities: readonly MetadataValue[] = [
  "",
  "▁",
  " ",
  "a b",
  "<0x41>",
  "<0xZZ>",
  "\u0000",
  "\ud800",
  "x".repeat(5000),
  -1,
  0,
  1e300,
  Number.NaN,
  Infinity,
  2 ** 32 - 1,
  7n,
  -(2n ** 63n),
  true,
  [],
  [[]],
  ["a"],
  [1, "a"],
];

/** One of the ways in which a file may be corrupt. */
function corrupt(file: Record<string, MetadataValue>, random: TestRandom): Map<string, MetadataValue> {
  const entries = new Map(Object.entries(file));
  for (let changes = 1 + random.below(3); changes > 0; changes--) {
    const key = [...entries.keys()][random.below(entries.size)]!;
    const value = entries.get(key);
    const odd = oddities[random.below(oddities.length)];
    const way = random.below(4);
    if (way === 0) entries.delete(key);
    else if (way === 1 || !Array.isArray(value)) entries.set(key, odd);
    else if (way === 2) entries.set(key, value.slice(0, random.below(value.length + 1)));
    else entries.set(key, value.with(random.below(value.length), odd));
    if (entries.size === 0) break;
  }
  return entries;
}

describe.each(files.map((file) => [file["tokenizer.ggml.model"], file] as const))(
  "corrupt %s metadata",
  (_n, file) => {
    it("gives a tokenizer that works or a typed error, never anything else", () => {
      const random = new TestRandom(20);
      let refused = 0;
      for (let round = 0; round < 400; round++) {
        try {
          const tokenizer = resolveTokenizer({ kind: "gguf", metadata: corrupt(file, random) });
          if (tokenizer === null) continue;
          for (const parseSpecial of [false, true]) {
            const ids = tokenizer.encode("Hello,  wörld 12345\n<s><|im_end|> 😀", { parseSpecial });
            for (const id of ids) expect(id >= 0 && id < tokenizer.vocabularySize).toBe(true);
            expect(typeof tokenizer.decode(ids)).toBe("string");
          }
        } catch (error) {
          if (!(error instanceof MillraceError)) throw error;
          expect(["BAD_TOKENIZER", "UNSUPPORTED_TOKENIZER"]).toContain(error.code);
          refused++;
        }
      }
      expect(refused).toBeGreaterThan(100);
    });
  },
);
