import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { TermIndex } from "./term-index.js";
import { StreamTerms, TermQuery, termsOf } from "./terms.js";

const tokens = (random: TestRandom) => Array.from({ length: 16 }, () => Math.floor(random.next() * 40));

describe("TermIndex", () => {
  it("finds at every place what a look at all of its terms finds, however often places are filled anew", () => {
    const random = new TestRandom(5);
    const index = new TermIndex(32);
    const known = new StreamTerms();
    const there: Uint32Array[] = [];
    let places = 0;
    for (let round = 0; round < 400; round++) {
      if (there.length === places) {
        places = Math.max(3, 2 * places + 1);
        index.grow(places);
      }
      const terms = termsOf(tokens(random));
      known.blocks.add(terms);
      // Now a new place, now one that held something else.
      const place = random.next() < 0.5 ? there.length : Math.floor(random.next() * there.length);
      index.set(place, terms);
      there[place] = terms;
      expect(index.at(place)).toEqual(terms);
      if (round % 7 > 0) continue;
      const query = TermQuery.of(tokens(random), known);
      const { all, late } = index.match(query);
      expect(all.length).toBe(places);
      const wanted = query.match(there);
      expect([...all]).toEqual([...wanted.all, ...new Array(places - there.length).fill(0)]);
      expect([...late]).toEqual([...wanted.late, ...new Array(places - there.length).fill(0)]);
    }
  });

  it("leaves nothing of what stood at a place before", () => {
    const index = new TermIndex(4);
    index.grow(2);
    const known = new StreamTerms();
    for (const id of [7, 8, 9]) known.blocks.add(termsOf([id]));
    index.set(0, termsOf([7]));
    index.set(0, termsOf([8]));
    expect([...index.match(TermQuery.of([7], known)).all]).toEqual([0, 0]);
    expect([...index.match(TermQuery.of([8], known)).all]).toEqual([1, 0]);
  });
});
