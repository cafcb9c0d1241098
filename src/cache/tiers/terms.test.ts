import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { StreamTerms, TermCounts, TermQuery, termsOf } from "./terms.js";

const tokens = (random: TestRandom) => Array.from({ length: 16 }, () => Math.floor(random.next() * 40));

describe("TermQuery", () => {
  it("weighs rare words more than common ones, and pairs as words", () => {
    const known = new StreamTerms();
    const blocks = Array.from({ length: 64 }, (_, i) => termsOf([1, 2, 3, 100 + (i % 8), 1000 + i]));
    for (const block of blocks) known.blocks.add(block);
    const question = [1, 3, 107, 1007];
    const weights = new Map(known.weights(question));
    expect(weights.get(1007)).toBeGreaterThan(weights.get(107)!);
    expect(weights.get(107)).toBeGreaterThan(weights.get(3)!);
    expect([...weights.keys()]).toEqual([...termsOf(question)]);
    const query = TermQuery.of(question, known);
    const { all } = query.match(blocks);
    const scores = Array.from(all, (found) => query.score(found));
    expect(scores[7]).toBe(1);
    // The half that the rarer word is not, and nothing.
    expect(scores[15]).toBeCloseTo(1 / 3, 12);
    expect(scores[14]).toBe(0);
    const pairs = TermQuery.of([2, 3], known);
    expect(pairs.score(pairs.matchTokens([2, 3, 9]))).toBe(1);
    expect(pairs.score(pairs.matchTokens([3, 9, 2]))).toBeLessThan(1);
  });

  it("holds pairs for no more telling than their words", () => {
    const known = new StreamTerms();
    for (let i = 0; i < 200; i++)
      known.blocks.add(termsOf(i % 40 === 0 ? [1, 2, 500, 3] : [10, 500, 11 + (i % 9), 12]));
    for (let i = 0; i < 30; i++) known.questions.add(termsOf([1, 2, 600 + i, 3]));
    const weights = new Map(known.weights([1, 2, 500, 3]));
    // The pairs of the subject with what makes a question stand in blocks that asked before, and in nothing else.
    const [pairBefore, pairAfter] = [...weights.keys()].filter((term) => term >= 2 ** 31).slice(1);
    expect(weights.get(500)).toBeGreaterThan(0);
    expect(weights.get(pairBefore!)).toBeLessThan(0.01 * weights.get(500)!);
    expect(weights.get(pairAfter!)).toBeLessThan(0.01 * weights.get(500)!);
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
      const scores = blocks.map((block) => query.score(query.matchTokens(block)));
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
    for (const ids of [[1, 2], []]) {
      const query = TermQuery.of(ids, new StreamTerms());
      expect(query.matchTokens([1, 2, 3])).toBe(0);
      expect(query.scores(query.match([termsOf([1, 2, 3])])).scores).toEqual(new Float64Array(1));
    }
  });

  it("finds in tokens what it finds in their terms", () => {
    const random = new TestRandom(7);
    const known = new StreamTerms();
    const texts = Array.from({ length: 50 }, () => tokens(random));
    for (const text of texts) known.blocks.add(termsOf(text));
    const query = TermQuery.of(tokens(random), known);
    const { all } = query.match(texts.map(termsOf));
    expect(texts.map((text) => query.matchTokens(text))).toEqual([...all]);
  });

  it("puts together what is cut in two, on the side where the words stand", () => {
    const known = new StreamTerms();
    for (let i = 0; i < 100; i++) known.blocks.add(termsOf([200 + i, 99, 300 + i]));
    const blocks = [
      [1, 2, 3, 4, 5, 6, 7, 200],
      [300, 8, 9, 10, 11, 12, 13, 14],
      [15, 16, 17, 18, 19, 20, 21, 22],
      [250, 23, 24, 25, 26, 27, 28, 29],
    ].map(termsOf);
    const query = TermQuery.of([200, 97, 300], known);
    const { scores, beside } = query.scores(query.match(blocks));
    // Neither has all of it; each with the other has. What stands beside, and has nothing, is none of it.
    expect([...scores]).toEqual([1, 1, 0, 0]);
    expect([...beside]).toEqual([1, -1, 0, 0]);
    const other = TermQuery.of([250], known);
    expect([...other.scores(other.match(blocks)).beside]).toEqual([0, 0, 0, -1]);
  });
});
