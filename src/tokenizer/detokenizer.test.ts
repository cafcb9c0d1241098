import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { bpeFixture, bpeTokenizer, spmFixture, spmTokenizer } from "../../test/support/tokenizers.js";
import type { Tokenizer } from "./contract.js";
import { createDetokenizer, type DetokenizerOptions } from "./detokenizer.js";
import { wellFormed } from "./utf8.js";

/** The pieces that streaming `ids` gives, flush included. */
function stream(tokenizer: Tokenizer, ids: Iterable<number>, options?: DetokenizerOptions): string[] {
  const detokenizer = createDetokenizer(tokenizer, options);
  return [...Array.from(ids, (id) => detokenizer.push(id)), detokenizer.flush()];
}

const tokenizers: readonly (readonly [string, Tokenizer, readonly string[]])[] = [
  ["SentencePiece", spmTokenizer("words"), spmFixture.strings],
  ["SentencePiece without a leading space", spmTokenizer("phrases, no prefix"), spmFixture.strings],
  ["byte-level BPE", bpeTokenizer("qwen2"), bpeFixture.strings],
];

describe.each(tokenizers)("streaming %s", (_name, tokenizer, strings) => {
  it.each([true, false])("joined is decode() of all, for texts (skipSpecial %s)", (skipSpecial) => {
    for (const text of strings) {
      const ids = tokenizer.encode(text, { parseSpecial: true });
      expect(stream(tokenizer, ids, { skipSpecial }).join("")).toBe(tokenizer.decode(ids, { skipSpecial }));
    }
  });

  it.each([true, false])("joined is decode() of all, for random ids (skipSpecial %s)", (skipSpecial) => {
    const random = new TestRandom(8);
    for (let round = 0; round < 300; round++) {
      const ids = Array.from({ length: 1 + random.below(12) }, () => random.below(tokenizer.vocabularySize));
      const pieces = stream(tokenizer, ids, { skipSpecial });
      expect(pieces.join("")).toBe(tokenizer.decode(ids, { skipSpecial }));
      for (const piece of pieces) expect(wellFormed(piece)).toBe(piece);
    }
  });

  it("goes on from its saved state as it would have gone on itself", () => {
    const random = new TestRandom(10);
    for (let round = 0; round < 300; round++) {
      const ids = Array.from({ length: 1 + random.below(12) }, () => random.below(tokenizer.vocabularySize));
      const cut = random.below(ids.length + 1);
      const first = createDetokenizer(tokenizer);
      const before = ids.slice(0, cut).map((id) => first.push(id));
      const state = JSON.parse(JSON.stringify(first.save()));
      const after = stream(tokenizer, ids.slice(cut), { state });
      expect([...before, ...after]).toEqual(stream(tokenizer, ids));
    }
  });

  it("continues behind a text as if it had been decoded with it", () => {
    const random = new TestRandom(9);
    const ordinary = Array.from({ length: tokenizer.vocabularySize }, (_, id) => id).filter((id) => {
      const bytes = tokenizer.tokenBytes(id);
      return !new TextDecoder().decode(bytes).includes("\ufffd");
    });
    const draw = () =>
      Array.from({ length: random.below(4) }, () => ordinary[random.below(ordinary.length)]!);
    for (let round = 0; round < 300; round++) {
      const after = draw();
      const ids = draw();
      const whole = tokenizer.decode([...after, ...ids]);
      expect(tokenizer.decode(after) + stream(tokenizer, ids, { after }).join("")).toBe(whole);
    }
  });
});

describe("createDetokenizer", () => {
  const spm = spmTokenizer("words");
  const byte = (value: number) => spm.idOf(`<0x${value.toString(16).toUpperCase()}>`)!;

  it("holds a character back until its last byte", () => {
    expect(stream(spm, [0xf0, 0x9f, 0x98, 0x80].map(byte))).toEqual(["", "", "", "😀", ""]);
    expect(stream(spm, [0xe2, 0x82, 0xac, 0xc3].map(byte))).toEqual(["", "", "€", "", "\ufffd"]);
  });

  it("gives up on a character as soon as the bytes cannot become one", () => {
    expect(stream(spm, [byte(0xe2), spm.idOf("e")!])).toEqual(["", "\ufffde", ""]);
    expect(stream(spm, [0xff, 0x80].map(byte))).toEqual(["\ufffd", "\ufffd", ""]);
  });

  it("strips the first token's space at the start of a text only", () => {
    const [the] = spm.encode("The", { addSpecial: false });
    expect(spm.tokenBytes(the!)[0]).toBe(0x20);
    const text = (after?: number[]) => stream(spm, [the!], after && { after })[0];
    const bare = text()!;
    expect(bare.startsWith(" ")).toBe(false);
    expect(text([])).toBe(bare);
    expect(text([spm.bosId!])).toBe(bare);
    expect(text([spm.bosId!, the!])).toBe(` ${bare}`);
    expect(stream(spm, [spm.bosId!, the!, the!]).join("")).toBe(`${bare} ${bare}`);
  });

  it("keeps a byte order mark", () => {
    const tokenizer = bpeTokenizer("qwen2");
    expect(stream(tokenizer, tokenizer.encode("\ufeffx")).join("")).toBe("\ufeffx");
  });

  it("refuses ids outside the vocabulary", () => {
    const detokenizer = createDetokenizer(spm);
    expect(() => detokenizer.push(spm.vocabularySize)).toThrow(
      expect.objectContaining({ code: "INVALID_TOKEN" }),
    );
  });
});
