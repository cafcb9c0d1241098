/**
 * Which words a block holds: its token ids and pairs of neighbours, as numbers, and how rare each is among all blocks.
 * A question's rare words found again are a plain, exact and cheap sign that a block is what it asks about.
 *
 * In a stream that rarely asks, the rarest words of a question are those that make it one ("Do you know where"): they
 * stand in earlier questions only, and would find nothing but these. So a word also counts by how rare it is among the
 * questions asked before.
 */

/** Distinct terms of a run of tokens, as they first come: ids below 2^31, pairs of neighbours from there on. */
export const termsOf = (ids: ArrayLike<number>): Uint32Array<ArrayBuffer> =>
  Uint32Array.from(new Set(eachTerm(ids)));

function* eachTerm(ids: ArrayLike<number>): Generator<number> {
  for (let i = 0; i < ids.length; i++) {
    yield ids[i]!;
    if (i > 0) yield pairOf(ids[i - 1]!, ids[i]!);
  }
}

const pairOf = (a: number, b: number): number =>
  ((Math.imul(a, 0x85ebca6b) ^ Math.imul(b + 1, 0xc2b2ae35)) | 0x80000000) >>> 0;

/** Most terms of a run of tokens. */
export const mostTerms = (tokens: number): number => 2 * tokens;

/** `TermCounts` as JSON. */
export interface SavedTermCounts {
  readonly texts: number;
  /** Rows that are not zero, as [row, count]. */
  readonly rows: readonly (readonly [number, number])[];
}

/** In how many texts (blocks, or questions) each term stands. */
export class TermCounts {
  readonly #counts: Uint32Array;
  #texts = 0;

  /**
   * @param rows A power of two, at most 2^16: terms that fall into one row count together, so a term may pass as less rare.
   * Each takes 4 bytes.
   */
  constructor(rows: number) {
    this.#counts = new Uint32Array(rows);
  }

  /** How many were counted. */
  get texts(): number {
    return this.#texts;
  }

  /** Counts a text's distinct terms. */
  add(terms: Uint32Array): void {
    this.#texts++;
    for (const term of terms) this.#counts[this.#rowOf(term)]!++;
  }

  /** How telling a term is: the natural log of the share of texts that have it, negated; 0 where none has. */
  weight(term: number): number {
    const count = this.#counts[this.#rowOf(term)]!;
    return count === 0 ? 0 : Math.log((this.#texts + 1) / count);
  }

  /** How rare a term is: from 1 where no text has it, on the same scale as `weight`, down to about 0 where all have. */
  rarity(term: number): number {
    const most = Math.log(this.#texts + 2);
    return 1 - Math.log(this.#counts[this.#rowOf(term)]! + 1) / most;
  }

  save(): SavedTermCounts {
    const rows = [...this.#counts.entries()].filter(([, count]) => count > 0);
    return { texts: this.#texts, rows };
  }

  /** Takes the place of what was counted. Rows that there are not are passed over. */
  restore({ texts, rows }: SavedTermCounts): void {
    this.#texts = texts;
    this.#counts.fill(0);
    for (const [row, count] of rows) this.#counts[row] = count;
  }

  #rowOf(term: number): number {
    return (Math.imul(term, 0x9e3779b1) >>> 16) & (this.#counts.length - 1);
  }
}

/** Of blocks there are many and of questions few: rows to count their terms in. */
const BLOCK_ROWS = 2 ** 16;
const QUESTION_ROWS = 2 ** 14;

/** What is known of a stream's terms: how rare each is among its blocks, and among the questions asked so far. */
export class StreamTerms {
  /** Memory that it takes. */
  static readonly bytes = 4 * (BLOCK_ROWS + QUESTION_ROWS);
  readonly blocks = new TermCounts(BLOCK_ROWS);
  readonly questions = new TermCounts(QUESTION_ROWS);

  /**
   * How much each distinct term of a question tells of what it asks about; 0 where no block has it. A pair tells no more than
   * the less telling of its two: "is Nora" stands in earlier questions only.
   */
  weights(ids: ArrayLike<number>): (readonly [number, number])[] {
    const weights = new Map<number, number>();
    for (let i = 0; i < ids.length; i++) {
      const rarity = this.questions.rarity(ids[i]!);
      weights.set(ids[i]!, this.#weight(ids[i]!, rarity));
      if (i === 0) continue;
      const pair = pairOf(ids[i - 1]!, ids[i]!);
      const least = Math.min(rarity, this.questions.rarity(ids[i - 1]!), this.questions.rarity(pair));
      weights.set(pair, this.#weight(pair, least));
    }
    return [...weights];
  }

  /** How much each token of a question tells, for `Probe.ask`; null where none was seen before. */
  weigh(ids: ArrayLike<number>): Float64Array | null {
    const weights = Float64Array.from(ids, (id) => this.#weight(id, this.questions.rarity(id)));
    return weights.some((weight) => weight > 0) ? weights : null;
  }

  #weight(term: number, rarity: number): number {
    return this.blocks.weight(term) * rarity ** STEEPNESS;
  }
}

/**
 * How steeply a term that many questions have counts less: "rusty" in one of ten questions and "Where" in five of them are
 * to be told apart clearly. `millrace evaluate recall --recall` shows what it is good for.
 */
const STEEPNESS = 4;

/** Questions from which on it is known what makes one. */
const ENOUGH_QUESTIONS = 8;

/** A term that tells less than this share of what the most telling one does is not looked for. */
const LEAST_SHARE = 0.01;

/** Terms that a question is looked for by, at most: as many as a number has bits. */
const MOST_SOUGHT = 32;

/** A question's telling terms, ready to be looked for in many blocks. Which of them stand somewhere is a set of bits. */
export class TermQuery {
  readonly terms: readonly number[];
  /** Of the weight of all, by term. */
  readonly #shares: readonly number[];
  /** The weights tell what makes a question one from what it asks about. */
  readonly knowsQuestions: boolean;

  private constructor(weights: readonly (readonly [number, number])[], knowsQuestions: boolean) {
    const total = weights.reduce((sum, [, weight]) => sum + weight, 0);
    this.terms = weights.map(([term]) => term);
    this.#shares = weights.map(([, weight]) => weight / total);
    this.knowsQuestions = knowsQuestions;
  }

  static of(ids: ArrayLike<number>, known: StreamTerms): TermQuery {
    const weights = known.weights(ids).sort(([, a], [, b]) => b - a);
    const least = LEAST_SHARE * (weights[0]?.[1] ?? 0);
    const telling = weights.filter(([, weight]) => weight > 0 && weight >= least).slice(0, MOST_SOUGHT);
    return new TermQuery(telling, known.questions.texts >= ENOUGH_QUESTIONS);
  }

  /** The same question, in which some terms count `factor` times as much. */
  less(terms: ReadonlySet<number>, factor: number): TermQuery {
    const weights = this.terms.map((term, i) => {
      const share = this.#shares[i]!;
      return [term, terms.has(term) ? share * factor : share] as const;
    });
    return new TermQuery(weights, this.knowsQuestions);
  }

  /** Which of its terms stand in each of these blocks, whose own terms `termsOf` has found. */
  match(blocks: readonly Uint32Array[]): Found {
    const [all, late] = [new Int32Array(blocks.length), new Int32Array(blocks.length)];
    for (const [b, terms] of blocks.entries()) {
      for (const [at, term] of terms.entries()) {
        const i = this.terms.indexOf(term);
        if (i < 0) continue;
        all[b]! |= 1 << i;
        if (isLate(at, terms.length)) late[b]! |= 1 << i;
      }
    }
    return { all, late };
  }

  /** Which of its terms stand in a run of tokens. */
  matchTokens(ids: ArrayLike<number>): number {
    let all = 0;
    for (const term of eachTerm(ids)) {
      const i = this.terms.indexOf(term);
      if (i >= 0) all |= 1 << i;
    }
    return all;
  }

  /** How much of the question these of its terms are, as bits: nothing (0), a little, some, or about all (1). */
  score(found: number): number {
    if (found === 0) return 0;
    const share = this.#share(found);
    return GRADES.filter((least) => share >= least).length / GRADES.length;
  }

  /**
   * How much of the question is found in each of several blocks, which stand in the order of the stream, together with
   * the one beside it that may hold the rest: blocks are cut wherever they are full, so what is asked about stands in two
   * of them as often as not.
   */
  scores({ all, late }: Found): Scores {
    const scores = new Float64Array(all.length);
    const beside = new Int8Array(all.length);
    for (let i = 0; i < all.length; i++) {
      // Nearly all have nothing of it.
      if (all[i] === 0) continue;
      beside[i] = this.#share(late[i]!) >= this.#share(all[i]! & ~late[i]!) ? 1 : -1;
      scores[i] = this.score(all[i]! | (all[i + beside[i]!] ?? 0));
    }
    return { scores, beside };
  }

  #share(found: number): number {
    let share = 0;
    for (let bits = found; bits !== 0; bits &= bits - 1) {
      share += this.#shares[31 - Math.clz32(bits & -bits)]!;
    }
    return share;
  }
}

/** By block, bits of a question's terms in the order of `TermQuery.terms`: those found, and those first met in its later half. */
export interface Found {
  readonly all: Int32Array;
  readonly late: Int32Array;
}

/** By block. */
export interface Scores {
  readonly scores: Float64Array;
  /** Whether the block after it (1) or before it (-1) may hold the rest of what was found; 0 where nothing says so. */
  readonly beside: Int8Array;
}

/** Whether the `at`th of `count` terms of a block stands in its later half. */
export const isLate = (at: number, count: number): boolean => 2 * at >= count;

/**
 * Shares of a question from which on a block has a little, some, or about all of it. Finer grades would put the old before
 * the new for a word more.
 */
const GRADES = [0.15, 0.4, 0.75];
