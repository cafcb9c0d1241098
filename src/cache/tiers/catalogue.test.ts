import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import type { KvGroup } from "../../backends/contract.js";
import { byScore, Catalogue } from "./catalogue.js";
import { emptySummary, Summarizer, type Summary } from "./summary.js";
import { StreamTerms, TermQuery, termsOf } from "./terms.js";

const GROUP: KvGroup = {
  codec: "f32",
  pageTokens: 16,
  headWidth: 8,
  lanes: [
    { layer: 0, head: 0 },
    { layer: 1, head: 0 },
  ],
};
const VECTORS = 2;

const makeSummarizer = () => new Summarizer(GROUP, [null, null], VECTORS);

function randomSummary(random: TestRandom): Summary {
  const summary = emptySummary(GROUP, VECTORS);
  // All of one length, so that no vector is nearer to another than to itself.
  for (let v = 0; v < summary.steps.length; v++) {
    const vector = random.floats(8, 100).map(Math.round);
    summary.bytes.set(vector, v * 8);
    summary.steps[v] = 1 / Math.hypot(...vector);
  }
  return summary;
}

/** What a summary holds in one lane. */
function vectorOf({ steps, bytes }: Summary, lane: number, vector: number): Float32Array {
  const at = lane * VECTORS + vector;
  return Float32Array.from(bytes.subarray(at * 8, (at + 1) * 8), (byte) => byte * steps[at]!);
}

describe("Catalogue", () => {
  it("finds a block by either of its vectors, in all lanes or in one", () => {
    const random = new TestRandom(2);
    const catalogue = new Catalogue(GROUP, makeSummarizer(), null, 2 ** 20);
    const summaries = Array.from({ length: 200 }, () => randomSummary(random));
    for (const [serial, summary] of summaries.entries()) catalogue.add(serial, { summary, terms: null });
    const nothing = new Float32Array(8);
    for (const serial of [0, 57, 199]) {
      for (const vector of [0, 1]) {
        const [a, b] = [0, 1].map((lane) => vectorOf(summaries[serial]!, lane, vector));
        for (const queries of [
          [a!, b!],
          [a!, nothing],
          [nothing, b!],
        ]) {
          const { candidates, score } = catalogue.rank({ queries, terms: null }, Number.POSITIVE_INFINITY);
          const { scores } = score(summaries.map((summary) => ({ summary, terms: null })));
          // Its own nearness, which is the greatest, and that of the better one beside it.
          expect(scores[serial]).toBeGreaterThanOrEqual(1);
          expect(candidates.length).toBeGreaterThan(0);
          for (const candidate of candidates) {
            expect(scores[candidate.first]).toBeCloseTo(candidate.score, 6);
          }
          expect([...candidates].sort(byScore)).toEqual(candidates);
          expect(catalogue.rank({ queries, terms: null }, 3).candidates).toEqual(candidates.slice(0, 3));
        }
      }
    }
  });

  it("adds up what several queries of a question ask for", () => {
    const random = new TestRandom(3);
    const catalogue = new Catalogue(GROUP, makeSummarizer(), null, 2 ** 20);
    const summaries = Array.from({ length: 100 }, () => randomSummary(random));
    for (const [serial, summary] of summaries.entries()) catalogue.add(serial, { summary, terms: null });
    // One query for each of a block's vectors: none of the others is near to both.
    const queries = [0, 1].map((lane) =>
      Float32Array.from([...vectorOf(summaries[31]!, lane, 0), ...vectorOf(summaries[31]!, lane, 1)]),
    );
    // Beside it the one that might hold the rest.
    const found = catalogue.rank({ queries, terms: null }, 2).candidates.map(({ first }) => first);
    expect(found).toContain(31);
  });

  it("stays within its bytes however many blocks there are, and still knows where each of them is", () => {
    const random = new TestRandom(4);
    const known = new StreamTerms();
    const bytes = 20_000;
    const catalogue = new Catalogue(GROUP, makeSummarizer(), known.blocks, bytes);
    const most = Math.floor(bytes / catalogue.entryBytes);
    const kept = new Set<number>();
    for (let serial = 0; serial < 3000; serial++) {
      const ids = Array.from({ length: 16 }, (_, i) => (i === 9 ? 10_000 + serial : random.below(40)));
      const terms = termsOf(ids);
      known.blocks.add(terms);
      catalogue.add(serial, { summary: randomSummary(random), terms });
      kept.add(serial);
      if (random.next() < 0.02) {
        const gone = [...kept].slice(0, random.below(40)).concat(random.below(serial + 1));
        catalogue.remove(gone.filter((each) => kept.delete(each)));
      }
      if (serial === 600) {
        // An old block is found by its rare word among those it stands with.
        const wanted = [...kept][50]!;
        const terms = TermQuery.of([3, 10_000 + wanted, 5], known);
        const found = catalogue.rank({ queries: null, terms }, 3).candidates;
        expect(found.some(({ first, last }) => first <= wanted && wanted <= last)).toBe(true);
        expect(found[0]!.blocks).toBeGreaterThan(1);
      }
      expect(catalogue.usage().entries).toBeLessThanOrEqual(most);
      expect(catalogue.usage().bytes).toBeLessThanOrEqual(bytes);
      if (serial % 100 !== 0) continue;
      const { entries } = catalogue;
      expect(entries.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(kept.size);
      const ends = entries.flatMap(({ first, last }) => [first, last]);
      expect(ends).toEqual([...ends].sort((a, b) => a - b));
      for (const each of kept) {
        expect(entries.some(({ first, last }) => first <= each && each <= last)).toBe(true);
      }
    }
  });
});
