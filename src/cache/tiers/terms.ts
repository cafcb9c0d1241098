/**
 * Which words a block holds: its token ids and pairs of neighbours, as numbers, and how rare each is among all blocks.
 * A question's rare words found again are a plain, exact and cheap sign that a block is what it asks about.
 *
 * In a stream that rarely asks, the rarest words of a question are those that make it one ("Do you know where"): they
 * stand in earlier questions only, and would find nothing but these. So a word also counts by how rare it is among the
 * questions asked before.
 */

/** Distinct terms of a run of tokens, ascending: ids below 2^31, pairs of neighbours from there on. */
export function termsOf(ids: ArrayLike<number>): Uint32Array<ArrayBuffer> {
  const terms = new Set<number>();
  for (let i = 0; i < ids.length; i++) {
    terms.add(ids[i]!);
    if (i > 0) terms.add(pairOf(ids[i - 1]!, ids[i]!));
  }
  return Uint32Array.from(terms).sort();
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

  /** How much a question's term tells of what it asks about; 0 where no block has it. */
  weight(term: number): number {
    return this.blocks.weight(term) * this.questions.rarity(term) ** STEEPNESS;
  }

  /** How much each token of a question tells, for `Probe.ask`; null where none was seen before. */
  weigh(ids: ArrayLike<number>): Float64Array | null {
    const weights = Float64Array.from(ids, (id) => this.weight(id));
    return weights.some((weight) => weight > 0) ? weights : null;
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

/** A question's telling terms, ready to be looked for in many blocks. */
export class TermQuery {
  /** Each with its share of the weight of all. */
  readonly shares: ReadonlyMap<number, number>;
  /** The weights tell what makes a question one from what it asks about. */
  readonly knowsQuestions: boolean;

  private constructor(weights: ReadonlyMap<number, number>, knowsQuestions: boolean) {
    let total = 0;
    for (const weight of weights.values()) total += weight;
    this.shares = new Map(Array.from(weights, ([term, weight]) => [term, weight / total]));
    this.knowsQuestions = knowsQuestions;
  }

  static of(ids: ArrayLike<number>, known: StreamTerms): TermQuery {
    const weights = new Map<number, number>();
    let most = 0;
    for (const term of termsOf(ids)) {
      const weight = known.weight(term);
      weights.set(term, weight);
      most = Math.max(most, weight);
    }
    const telling = [...weights].filter(([, weight]) => weight > 0 && weight >= LEAST_SHARE * most);
    return new TermQuery(new Map(telling), known.questions.texts >= ENOUGH_QUESTIONS);
  }

  /** The same question, in which some terms count `factor` times as much. */
  less(terms: ReadonlySet<number>, factor: number): TermQuery {
    const weights = Array.from(
      this.shares,
      ([term, share]) => [term, terms.has(term) ? share * factor : share] as const,
    );
    return new TermQuery(new Map(weights), this.knowsQuestions);
  }

  /** Share of the question's weight whose terms stand among these, which are distinct; 0 to 1. */
  match(terms: Iterable<number>): number {
    let found = 0;
    for (const term of terms) found += this.shares.get(term) ?? 0;
    return found;
  }

  /** As `match`, of the terms that `termsOf` finds. */
  matchTokens(ids: ArrayLike<number>): number {
    let found = 0;
    const met: number[] = [];
    const meet = (term: number) => {
      const share = this.shares.get(term);
      if (share === undefined || met.includes(term)) return;
      met.push(term);
      found += share;
    };
    for (let i = 0; i < ids.length; i++) {
      meet(ids[i]!);
      if (i > 0) meet(pairOf(ids[i - 1]!, ids[i]!));
    }
    return found;
  }
}
