import { describe, expect, it } from "vitest";
import type { Candidate } from "./catalogue.js";
import { chooseBlocks } from "./choose.js";
import { StreamTerms, TermQuery, termsOf } from "./terms.js";

const SUBJECT = 500;
const ask = (subject: number) => [1, 2, 3, subject, 4];

/** A stream of blocks, every third an earlier question about something else; the subject stands in the 20th only. */
const BLOCKS = Array.from({ length: 60 }, (_, i) => {
  if (i === 20) return [10, SUBJECT, 12];
  return i % 3 === 0 ? ask(1000 + i) : [10, 11 + (i % 5), 12];
}).map(termsOf);

function choosing(held: readonly (readonly number[])[] = [], questions = 0) {
  const known = new StreamTerms();
  for (const block of BLOCKS) known.blocks.add(block);
  for (let i = 0; i < questions; i++) known.questions.add(termsOf(ask(2000 + i)));
  return {
    most: 8,
    following: 0,
    terms: TermQuery.of(ask(SUBJECT), known),
    held,
    rank: async (terms: TermQuery | null): Promise<Candidate[]> => {
      const { scores, beside } = terms!.scores(terms!.match(BLOCKS));
      return BLOCKS.map((its, i) => ({
        first: i,
        last: i,
        blocks: 1,
        score: scores[i]!,
        beside: beside[i]!,
        terms: its,
      }));
    },
    neighbour: (serial: number, side: number) => (BLOCKS[serial + side] ? serial + side : null),
  };
}

describe("chooseBlocks", () => {
  it("finds what a question asks about, whether it knows what makes a question or not", async () => {
    for (const questions of [0, 20]) {
      const chosen = await chooseBlocks(choosing([], questions));
      expect(chosen).toContain(20);
      expect(new Set(chosen).size).toBe(chosen.length);
      expect(chosen.length).toBeLessThanOrEqual(8);
    }
    // Where it is known, that comes first, with the block beside it that may hold the rest, and nothing else matches.
    expect(await chooseBlocks(choosing([], 20))).toEqual([20, 19]);
  });

  it("brings back the less, the more of it is held", async () => {
    const there = (count: number) => Array.from({ length: count }, () => [10, SUBJECT, 12]);
    const counts = await Promise.all(
      [0, 1, 2].map(
        async (count) => (await chooseBlocks({ ...choosing(there(count), 20), following: 5 })).length,
      ),
    );
    expect(counts).toEqual([7, 4, 0]);
  });

  it("takes what follows along, within the same number", async () => {
    const chosen = await chooseBlocks({ ...choosing([], 20), most: 3, following: 2 });
    expect(chosen).toEqual([20, 19, 21]);
  });

  it("chooses nothing where nothing matches", async () => {
    const nothing = TermQuery.of([7000], new StreamTerms());
    expect(await chooseBlocks({ ...choosing(), terms: nothing })).toEqual([]);
  });
});
