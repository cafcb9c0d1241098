/**
 * Tokenisation against llama.cpp's, on strings that are hard on tokenizers: see test/oracles/tokenizer.js, which wrote
 * the fixtures.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { MetadataValue } from "../formats/checkpoint.js";
import { createDetokenizer } from "./detokenizer.js";
import { PRE_TOKENIZER_NAMES } from "./pre-tokenizers.js";
import { resolveTokenizer } from "./resolve.js";
import { wellFormed } from "./utf8.js";

interface Answer {
  /** Ids of each string, control tokens' names taken as text, and as tokens. */
  readonly text: readonly (readonly number[])[];
  readonly special: readonly (readonly number[])[];
}
interface Vocabulary {
  readonly pieces: readonly string[];
  readonly types: readonly number[];
}
interface BpeFixture extends Vocabulary {
  readonly strings: readonly string[];
  readonly merges: readonly string[];
  /** By pre-tokeniser; a name where the answer is that of another. */
  readonly answers: Readonly<Record<string, Answer | string>>;
}
interface SpmFixture {
  readonly strings: readonly string[];
  readonly vocabularies: Readonly<Record<string, Vocabulary & { readonly scores: readonly number[] }>>;
  /** By vocabulary, with ", no prefix" where no space is put before the text. */
  readonly answers: Readonly<Record<string, Answer>>;
}

const fixture = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../test/fixtures/tokenizer/${name}.json`, import.meta.url), "utf8"));
const bpe = fixture("bpe") as BpeFixture;
const spm = fixture("spm") as SpmFixture;

const create = (metadata: Record<string, MetadataValue>) =>
  resolveTokenizer({ kind: "gguf", metadata: new Map(Object.entries(metadata)) })!;

/** Strings that llama.cpp itself tokenises wrongly, and why; where ours may differ. */
const PEER_IS_WRONG: readonly { readonly names: RegExp; readonly strings: RegExp; readonly why: string }[] = [
  {
    names: /^(tekken|gpt-4o|llama4|kanana2|minimax-m2)$/,
    strings: /\p{M}/u,
    why: "its expressions leave out the combining marks that these models' tokenizer.json counts as letters",
  },
  {
    names: /^(words|phrases)/,
    strings: /<(s|0x41|\|im_start\||\|endoftext\|)>/,
    why: "it lets text merge into control and byte tokens, against SentencePiece and against its own parse_special",
  },
];

function check(
  name: string,
  tokenizer: ReturnType<typeof create>,
  strings: readonly string[],
  answer: Answer,
): void {
  const wrong: object[] = [];
  const excused = PEER_IS_WRONG.filter(({ names }) => names.test(name));
  strings.forEach((text, i) => {
    for (const [parseSpecial, expected] of [
      [false, answer.text[i]!],
      [true, answer.special[i]!],
    ] as const) {
      const got = Array.from(tokenizer.encode(text, { addSpecial: false, parseSpecial }));
      if (JSON.stringify(got) === JSON.stringify(expected)) continue;
      if (excused.some((excuse) => excuse.strings.test(text))) {
        expect(parseSpecial || got.every((id) => !tokenizer.isSpecial(id))).toBe(true);
        continue;
      }
      const show = (ids: readonly number[]) =>
        ids.map((id) => tokenizer.decode([id], { skipSpecial: false }));
      wrong.push({ text, parseSpecial, got: show(got), expected: show(expected) });
    }
  });
  expect(wrong).toEqual([]);
}

describe("byte-level BPE equals llama.cpp", () => {
  const createBpe = (pre: string) =>
    create({
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": pre,
      "tokenizer.ggml.tokens": bpe.pieces,
      "tokenizer.ggml.token_type": bpe.types,
      "tokenizer.ggml.merges": bpe.merges,
      "tokenizer.ggml.bos_token_id": bpe.pieces.indexOf("<|endoftext|>"),
    });

  it.each(PRE_TOKENIZER_NAMES)("%s", (name) => {
    const answer = bpe.answers[name]!;
    check(
      name,
      createBpe(name),
      bpe.strings,
      typeof answer === "string" ? (bpe.answers[answer] as Answer) : answer,
    );
  });

  it("decodes to the text, at once and token by token", () => {
    const tokenizer = createBpe("llama-bpe");
    for (const text of bpe.strings) {
      const ids = tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
      expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(wellFormed(text));
      const detokenizer = createDetokenizer(tokenizer, { skipSpecial: false });
      expect(Array.from(ids, (id) => detokenizer.push(id)).join("") + detokenizer.flush()).toBe(
        wellFormed(text),
      );
    }
  });
});

describe("SentencePiece equals llama.cpp", () => {
  it.each(Object.keys(spm.answers))("%s", (name) => {
    const { pieces, types, scores } = spm.vocabularies[name.replace(", no prefix", "")]!;
    const tokenizer = create({
      "tokenizer.ggml.model": "llama",
      "tokenizer.ggml.tokens": pieces,
      "tokenizer.ggml.token_type": types,
      "tokenizer.ggml.scores": scores,
      "tokenizer.ggml.add_space_prefix": !name.endsWith(", no prefix"),
    });
    check(name, tokenizer, spm.strings, spm.answers[name]!);
    for (const text of spm.strings) {
      // "▁" is read as a space, and a prefix is put behind user-defined tokens too.
      if (/▁|<tool>| {4}/.test(text)) continue;
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });
});
