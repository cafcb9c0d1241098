/**
 * Chooses the blocks that a question gets: the best ones, the newer of about equal ones first, and less where the cache
 * itself still holds what is asked about.
 *
 * What makes a question one ("Do you know where") finds earlier questions; terms.ts tells such words from others by the
 * questions asked before. While there are few of these, blocks are chosen in rounds instead: words that many of a
 * round's blocks have count less in the next, so that every part of a question finds something.
 */
import { byScore, type Candidate, matches } from "./catalogue.js";
import { type TermQuery, termsOf } from "./terms.js";

export interface Choosing {
  /** Blocks to choose. */
  readonly most: number;
  /** Blocks that come along with each: those that follow it. */
  readonly following: number;
  /** The question's words; null: they do not count. */
  readonly terms: TermQuery | null;
  /** Token ids of what the cache holds, cut as if into blocks, oldest first. */
  readonly held: readonly ArrayLike<number>[];
  /** The best candidates for these words, each one block. */
  rank(terms: TermQuery | null): Promise<readonly Candidate[]>;
  /** The block after one (1) or before it (-1); null where there is none any more. */
  neighbour(serial: number, side: number): number | null;
}

/**
 * A run that the cache still holds takes this share of the places: where more of what is asked about is there, what was said
 * of it long ago misleads more often than it helps. A smaller one brings back more of what was said just before what is
 * held, and costs answers to what is; `millrace evaluate recall --recall` shows both.
 */
const HELD_SHARE = 1 / 2;

const ROUNDS = 4;
/** A word that at least this share of a round's blocks have counts so much less in the next. */
const COMMON = { share: 1 / 3, factor: 1 / 4 };

/** Serials of the chosen blocks, best first. */
export async function chooseBlocks(choosing: Choosing): Promise<number[]> {
  const { most, following, held, rank, neighbour } = choosing;
  let { terms } = choosing;
  const rounds = terms && !terms.knowsQuestions ? Math.min(ROUNDS, most) : 1;
  const chosen = new Set<number>();
  const there = new Set<number>();
  for (let round = 1; round <= rounds; round++) {
    const goal = Math.floor((most * round) / rounds);
    const taken = () => chosen.size + HELD_SHARE * most * there.size;
    const picked: Uint32Array[] = [];
    const candidates = [...(await rank(terms)), ...(terms ? heldBy(terms, held) : [])];
    for (const candidate of candidates.filter(matches).sort(byScore)) {
      if (taken() >= goal) break;
      const { first, blocks, beside } = candidate;
      const known = blocks === 0 ? there : chosen;
      if (known.has(first)) continue;
      known.add(first);
      if (round < rounds && candidate.terms) picked.push(candidate.terms);
      if (blocks === 0) continue;
      const rest = beside === 0 ? null : neighbour(first, beside);
      if (rest !== null && taken() < most) chosen.add(rest);
      let serial = neighbour(first, 1);
      for (let after = 0; after < following && serial !== null && taken() < most; after++) {
        chosen.add(serial);
        serial = neighbour(serial, 1);
      }
    }
    if (round === rounds || (picked.length === 0 && taken() < goal)) break;
    terms = terms?.less(commonOf(picked), COMMON.factor) ?? null;
  }
  return [...chosen];
}

/** What the cache holds, as candidates of 0 blocks, newer than all others. What lies beside them is there anyway. */
function heldBy(terms: TermQuery, held: readonly ArrayLike<number>[]): Candidate[] {
  const oldest = Number.MAX_SAFE_INTEGER - held.length;
  return held.map((ids, i) => ({
    first: i,
    last: oldest + i,
    blocks: 0,
    score: terms.score(terms.matchTokens(ids)),
    beside: 0,
    get terms() {
      return termsOf(ids);
    },
  }));
}

function commonOf(blocks: readonly Uint32Array[]): Set<number> {
  const counts = new Map<number, number>();
  for (const terms of blocks) for (const term of terms) counts.set(term, (counts.get(term) ?? 0) + 1);
  const least = COMMON.share * blocks.length;
  return new Set([...counts].filter(([, count]) => count >= least).map(([term]) => term));
}
