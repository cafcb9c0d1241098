/**
 * Tokenisation against llama.cpp's, on strings that are hard on tokenizers: see test/oracles/tokenizer.js, which wrote
 * the fixtures.
 */
import { describe, expect, it } from "vitest";
import {
  type Answer,
  bpeFixture,
  bpeTokenizer,
  spmFixture,
  spmTokenizer,
} from "../../test/support/tokenizers.js";
import type { Tokenizer } from "./contract.js";
import { PRE_TOKENIZER_NAMES } from "./pre-tokenizers.js";

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

function check(name: string, tokenizer: Tokenizer, strings: readonly string[], answer: Answer): void {
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
  it.each(PRE_TOKENIZER_NAMES)("%s", (name) => {
    const { strings, answers } = bpeFixture;
    const answer = answers[name]!;
    check(
      name,
      bpeTokenizer(name),
      strings,
      typeof answer === "string" ? (answers[answer] as Answer) : answer,
    );
  });
});

describe("SentencePiece equals llama.cpp", () => {
  it.each(Object.keys(spmFixture.answers))("%s", (name) => {
    const tokenizer = spmTokenizer(name);
    check(name, tokenizer, spmFixture.strings, spmFixture.answers[name]!);
    for (const text of spmFixture.strings) {
      // "▁" is read as a space, and a prefix is put behind user-defined tokens too.
      if (/▁|<tool>| {4}/.test(text)) continue;
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });
});
