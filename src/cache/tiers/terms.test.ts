import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { StreamTerms, TermCounts, TermQuery, termsOf } from "./terms.js";

const tokens = (random: TestRandom) => Array.from({ length: 16 }, () => Math.floor(random.next() * 40));

describe("TermQuery", () => {
  it("weighs rare words more than common ones, and pairs as words", () => {
    const known = new StreamTerms();
    const blocks = Array.from({ length: 64 }, (_, i) => [1, 2, 3, 100 + (i % 8), 1000 + i]);
    for (const block of blocks) known.blocks.add(termsOf(block));
    const query = TermQuery.of([1, 3, 107, 1007], known);
    const scores = blocks.map((block) => query.match(termsOf(block)));
    expect(scores.indexOf(Math.max(...scores))).toBe(7);
    expect(scores[7]).toBeGreaterThan(0.99);
    expect(scores[15]!).toBeGreaterThan(scores[14]!);
    expect(scores[14]).toBeLessThan(0.05);
    const pairs = TermQuery.of([2, 3], known);
    const [inOrder, apart] = [termsOf([2, 3, 9]), termsOf([3, 9, 2])];
    expect(pairs.match(inOrder)).toBeGreaterThan(pairs.match(apart));
  });

  it("looks for what a question asks about, not for what makes it a question", () => {
    const known = new StreamTerms();
    const ask = (subject: number) => [1, 2, 3, subject, 4];
    // One block in a hundred is an earlier question; the subject, 105, stands in one block in fifty.
    const blocks = Array.from({ length: 1000 }, (_, i) =>
      i % 100 === 7 ? ask(200 + i) : [10, 11 + (i % 3), 100 + (i % 50), 20],
    );
    for (const block of blocks) known.blocks.add(termsOf(block));
    const found = () => {
      const query = TermQuery.of(ask(105), known);
      const scores = blocks.map((block) => query.match(termsOf(block)));
      return blocks[scores.indexOf(Math.max(...scores))]!;
    };
    expect(found()).toContain(2);
    for (let i = 0; i < 5; i++) known.questions.add(termsOf(ask(207 + 100 * i)));
    expect(found()).toContain(105);
    const again = new TermCounts(2 ** 14);
    again.restore(JSON.parse(JSON.stringify(known.questions.save())));
    for (const term of termsOf(ask(207))) expect(again.rarity(term)).toBe(known.questions.rarity(term));
    expect(known.questions.rarity(1)).toBeLessThan(0.1);
    expect(known.questions.rarity(999)).toBe(1);
  });

  it("finds nothing where there is nothing to find", () => {
    const terms = termsOf([1, 2, 3]);
    expect(TermQuery.of([1, 2], new StreamTerms()).match(terms)).toBe(0);
    expect(TermQuery.of([], new StreamTerms()).match(terms)).toBe(0);
  });

  it("finds the same in tokens as in their terms, and all of it in the question itself", () => {
    const random = new TestRandom(6);
    const known = new StreamTerms();
    const texts = Array.from({ length: 50 }, () => tokens(random));
    for (const text of texts) known.blocks.add(termsOf(text));
    for (const text of texts) {
      const query = TermQuery.of(tokens(random), known);
      expect(query.matchTokens(text)).toBeCloseTo(query.match(termsOf(text)), 12);
      const itself = TermQuery.of(text, known);
      expect(itself.matchTokens(text)).toBeCloseTo(1, 12);
    }
  });
});
