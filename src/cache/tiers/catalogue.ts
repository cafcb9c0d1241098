/**
 * What is in memory of one group's blocks, to find those that a question asks about: entries of equal size in a hard
 * byte budget, whatever the stream's length. While there is room an entry stands for one block. Then neighbours are
 * put together, oldest first, and again when all stand for two, and so on: a tree whose upper levels are in memory and
 * whose leaves lie with the blocks on disk (LeoAM reads a question's way down the same way; only its idea is known).
 */

import type { KvGroup } from "../../backends/contract.js";
import { MillraceError } from "../../errors.js";
import type { Summarizer, Summary } from "./summary.js";
import { TermIndex } from "./term-index.js";
import { mostTerms, type Scores, type TermCounts, type TermQuery } from "./terms.js";

/** What is known of a block or of several: see summary.ts and terms.ts. Each is null where nobody looks at it. */
export interface Traits {
  readonly summary: Summary | null;
  readonly terms: Uint32Array | null;
}

/** What is looked for. */
export interface Question {
  /** By lane: queries turned back to position 0, [queries, D] each; null: keys do not count. */
  readonly queries: readonly Float32Array[] | null;
  /** Its words; null: they do not count. */
  readonly terms: TermQuery | null;
}

/** An entry of the catalogue: of the serials from `first` to `last`, `blocks` that are still there. */
export interface Entry {
  readonly first: number;
  readonly last: number;
  readonly blocks: number;
}

/** One that was scored. */
export interface Candidate extends Entry {
  readonly score: number;
  /** As in `Scores`. */
  readonly beside: number;
  /** Its distinct terms; null where these are not looked at. */
  readonly terms: Uint32Array | null;
}

const FIRST_ROOM = 64;

export class Catalogue {
  readonly #group: KvGroup;
  readonly #summarizer: Summarizer | null;
  /** Of all blocks of the sequence; null, as `#index`, where terms are not looked at. */
  readonly #counts: TermCounts | null;
  readonly #index: TermIndex | null;
  /** Most entries. */
  readonly #most: number;
  readonly #vectorsPerEntry: number;
  readonly #termsPerEntry: number;

  /** By place: the serials it stands for, how many blocks these are, its vectors. */
  #first = new Float64Array();
  #last = new Float64Array();
  #blocks = new Int32Array();
  #steps = new Float32Array();
  #vectors = new Int8Array();
  readonly #free: number[] = [];
  /** Places in use, oldest blocks first. */
  readonly #order: number[] = [];
  /** Where the next two neighbours may be put together, and how many blocks an entry may have to be. */
  #mergeAt = 0;
  #mergeBlocks = 1;

  /**
   * @param summarizer Of the group's keys; null where these are not looked at.
   * @param counts Shared by all groups of a sequence; null where terms are not looked at.
   * Throws OUT_OF_BUDGET where `bytes` hold less than two entries.
   */
  constructor(group: KvGroup, summarizer: Summarizer | null, counts: TermCounts | null, bytes: number) {
    this.#group = group;
    this.#summarizer = summarizer;
    this.#counts = counts;
    this.#vectorsPerEntry = group.lanes.length * (summarizer?.vectors ?? 0);
    this.#termsPerEntry = mostTerms(group.pageTokens);
    this.#index = counts && new TermIndex(this.#termsPerEntry);
    this.#most = Math.floor((bytes - this.#indexBytes.besides) / this.entryBytes);
    if (this.#most < 2) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `${bytes} bytes of memory for summaries of blocks hold no two of ${this.entryBytes}; give more.`,
        { bytes, entryBytes: this.entryBytes },
      );
    }
  }

  /** Memory that an entry takes. */
  get entryBytes(): number {
    return 32 + this.#vectorsPerEntry * (4 + this.#group.headWidth) + this.#indexBytes.entry;
  }

  get #indexBytes() {
    return this.#index ? TermIndex.bytesFor(this.#termsPerEntry) : { entry: 0, besides: 0 };
  }

  get isEmpty(): boolean {
    return this.#order.length === 0;
  }

  /** What it knows of, oldest first. */
  get entries(): readonly Entry[] {
    return this.#order.map((place) => this.#entry(place));
  }

  /** Entries now, and the memory that all of them take. */
  usage(): { readonly entries: number; readonly bytes: number } {
    return { entries: this.#order.length, bytes: this.#first.length * this.entryBytes };
  }

  /** Adds a block that is younger than all others. */
  add(serial: number, { summary, terms }: Traits): void {
    if (this.#order.length === this.#most) this.#coarsen();
    const place = this.#free.pop() ?? this.#grow();
    this.#first[place] = serial;
    this.#last[place] = serial;
    this.#blocks[place] = 1;
    if (summary) this.#summaryAt(place, (to) => copySummary(summary, to));
    if (terms) this.#index?.set(place, terms);
    this.#order.push(place);
  }

  /** Forgets blocks. Where an entry stands for others too, its traits stay as they are. */
  remove(serials: readonly number[]): void {
    const gone = [...serials].sort((a, b) => a - b);
    let at = 0;
    for (const serial of gone) {
      at = this.#indexOf(serial, at);
      const place = this.#order[at];
      if (place === undefined || this.#first[place]! > serial) continue;
      this.#blocks[place]!--;
    }
    let kept = 0;
    let mergeAt = this.#mergeAt;
    for (const [i, place] of this.#order.entries()) {
      if (this.#blocks[place]! > 0) this.#order[kept++] = place;
      else {
        this.#free.push(place);
        if (i < this.#mergeAt) mergeAt--;
      }
    }
    this.#order.length = kept;
    this.#mergeAt = mergeAt;
  }

  /** Scores every entry against a question, and finds the best `most`; see `byScore`. */
  rank({ queries, terms }: Question, most: number): Ranking {
    const keys = queries && this.#summarizer ? this.#scoreKeys(queries, this.#summarizer.vectors) : null;
    const places = Int32Array.from(this.#order);
    const found = terms && this.#index?.match(terms);
    const words = found && terms.scores({ all: pick(found.all, places), late: pick(found.late, places) });
    const { scores, beside } = together(places.length, words, keys?.scores);
    return {
      candidates: newestOfBest(scores, most).map((i): Candidate => {
        const place = places[i]!;
        const its = this.#index?.at(place) ?? null;
        return { ...this.#entry(place), score: scores[i]!, beside: beside[i]!, terms: its };
      }),
      score: (blocks) =>
        together(
          blocks.length,
          terms?.scores(terms.match(blocks.map((block) => block.terms ?? new Uint32Array()))),
          keys && Float64Array.from(blocks, ({ summary }) => (summary ? keys.of(summary) : 0)),
        ),
    };
  }

  /**
   * How near each entry's nearest vectors are to the queries: lane by lane as so many deviations above the mean of all
   * entries, so that lanes whose keys are large outvote no others, then summed over the lanes that are for it; 1 for the
   * best entry.
   */
  #scoreKeys(queries: readonly Float32Array[], vectors: number) {
    const count = this.#order.length;
    const scores = new Float64Array(count);
    const near = new Float64Array(count);
    const width = this.#group.headWidth;
    const lanes = this.#group.lanes.length;
    const scales = new Float64Array(2 * lanes);
    for (let lane = 0; lane < lanes; lane++) {
      const query = queries[lane]!;
      let sum = 0;
      let squares = 0;
      for (let i = 0; i < count; i++) {
        const at = (this.#order[i]! * lanes + lane) * vectors;
        const x = nearest(query, width, this.#steps, this.#vectors, at, vectors);
        near[i] = x;
        sum += x;
        squares += x * x;
      }
      const mean = sum / count;
      const deviation = Math.sqrt(Math.max(0, squares / count - mean * mean));
      scales[2 * lane] = mean;
      scales[2 * lane + 1] = deviation > 0 ? 1 / deviation : 0;
      for (let i = 0; i < count; i++) {
        const above = (near[i]! - mean) * scales[2 * lane + 1]!;
        if (above > 0) scores[i]! += above;
      }
    }
    const of = ({ steps, bytes }: Summary) => {
      let score = 0;
      for (let lane = 0; lane < lanes; lane++) {
        const x = nearest(queries[lane]!, width, steps, bytes, lane * vectors, vectors);
        score += Math.max(0, (x - scales[2 * lane]!) * scales[2 * lane + 1]!);
      }
      return score;
    };
    const best = scores.reduce((a, b) => Math.max(a, b), Number.MIN_VALUE);
    return { scores: scores.map((score) => score / best), of: (summary: Summary) => of(summary) / best };
  }

  /** Puts two neighbours together, of those that stand for fewest blocks the oldest. */
  #coarsen(): void {
    for (;;) {
      if (this.#mergeAt + 1 >= this.#order.length) {
        this.#mergeAt = 0;
        this.#mergeBlocks *= 2;
      }
      const [a, b] = [this.#order[this.#mergeAt]!, this.#order[this.#mergeAt + 1]!];
      if (this.#blocks[a]! <= this.#mergeBlocks && this.#blocks[b]! <= this.#mergeBlocks) {
        this.#merge(a, b);
        this.#order.splice(this.#mergeAt + 1, 1);
        this.#free.push(b);
        this.#mergeAt++;
        return;
      }
      this.#mergeAt++;
    }
  }

  /** Makes the entry at `a` stand for the blocks of both. */
  #merge(a: number, b: number): void {
    this.#last[a] = this.#last[b]!;
    this.#blocks[a]! += this.#blocks[b]!;
    if (this.#summarizer) {
      const summarizer = this.#summarizer;
      this.#summaryAt(b, (second) => this.#summaryAt(a, (first) => summarizer.merge(first, second, first)));
    }
    const [counts, index] = [this.#counts, this.#index];
    if (!counts || !index) return;
    const terms = [...new Set([...index.at(a), ...index.at(b)])];
    if (terms.length > this.#termsPerEntry) {
      // The rare ones tell more, and of equally rare ones words more than pairs.
      terms.sort((x, y) => counts.weight(y) - counts.weight(x) || x - y);
      terms.length = this.#termsPerEntry;
    }
    index.set(a, Uint32Array.from(terms));
  }

  #summaryAt<T>(place: number, act: (summary: Summary) => T): T {
    const at = place * this.#vectorsPerEntry;
    const end = at + this.#vectorsPerEntry;
    const width = this.#group.headWidth;
    return act({
      steps: this.#steps.subarray(at, end),
      bytes: this.#vectors.subarray(at * width, end * width),
    });
  }

  #entry(place: number): Entry {
    return { first: this.#first[place]!, last: this.#last[place]!, blocks: this.#blocks[place]! };
  }

  /** Index in the order, from `from` on, of the entry that would hold a serial. */
  #indexOf(serial: number, from: number): number {
    let at = from;
    while (at < this.#order.length && this.#last[this.#order[at]!]! < serial) at++;
    return at;
  }

  /** A fresh place. */
  #grow(): number {
    const room = this.#first.length;
    const place = this.#order.length + this.#free.length;
    if (place < room) return place;
    const more = Math.min(this.#most, Math.max(FIRST_ROOM, 2 * room));
    this.#first = widened(this.#first, new Float64Array(more));
    this.#last = widened(this.#last, new Float64Array(more));
    this.#blocks = widened(this.#blocks, new Int32Array(more));
    this.#steps = widened(this.#steps, new Float32Array(more * this.#vectorsPerEntry));
    this.#vectors = widened(
      this.#vectors,
      new Int8Array(more * this.#vectorsPerEntry * this.#group.headWidth),
    );
    this.#index?.grow(more);
    return place;
  }
}

/** The best entries of a catalogue, best first, and what other blocks would score, which stand in the order of time. */
export interface Ranking {
  readonly candidates: readonly Candidate[];
  score(blocks: readonly Traits[]): Scores;
}

/** Scores that differ by less are taken for equal; what scores less than half of it matches nothing. */
const STEP = 0.2;

const levelOf = (score: number): number => Math.round(score / STEP);

/** Whether there is anything of what is looked for. */
export const matches = ({ score }: Candidate): boolean => levelOf(score) > 0;

/**
 * Sorts the better one first: what scores higher, and of about equal ones what is newer, since what is said later replaces
 * what was said before.
 */
export const byScore = (a: Candidate, b: Candidate): number =>
  levelOf(b.score) - levelOf(a.score) || b.last - a.last;

/** Indices of the `count` best of scores, which stand in the order of time; in the order of `byScore`. */
function newestOfBest(scores: Float64Array, count: number): number[] {
  const levels: number[][] = [];
  for (let i = scores.length - 1; i >= 0; i--) {
    // Nearly all match nothing.
    if (scores[i]! < STEP / 2) continue;
    const level = levelOf(scores[i]!);
    while (levels.length <= level) levels.push([]);
    // The newest of a level are enough.
    if (levels[level]!.length < count) levels[level]!.push(i);
  }
  return levels.reverse().flat().slice(0, count);
}

const pick = (values: Int32Array, places: Int32Array): Int32Array => places.map((place) => values[place]!);

/** What words say and what nearness says, which counts with the better one of those beside it; null: does not count. */
function together(
  count: number,
  words: Scores | null | undefined,
  near: Float64Array | null | undefined,
): Scores {
  const { scores, beside } = words ?? { scores: new Float64Array(count), beside: new Int8Array(count) };
  for (let i = 0; near && i < count; i++) {
    scores[i]! += near[i]! + Math.max(near[i - 1] ?? 0, near[i + 1] ?? 0);
  }
  return { scores, beside };
}

/** Mean over the queries of the greatest product with any of the vectors from `at` on. */
function nearest(
  queries: Float32Array,
  width: number,
  steps: Float32Array,
  vectors: Int8Array,
  at: number,
  count: number,
): number {
  let sum = 0;
  for (let q = 0; q < queries.length; q += width) {
    let best = Number.NEGATIVE_INFINITY;
    for (let v = at; v < at + count; v++) {
      let product = 0;
      for (let d = 0; d < width; d++) product += queries[q + d]! * vectors[v * width + d]!;
      best = Math.max(best, product * steps[v]!);
    }
    sum += best;
  }
  return (sum * width) / queries.length;
}

function copySummary(from: Summary, to: Summary): void {
  to.steps.set(from.steps);
  to.bytes.set(from.bytes);
}

function widened<T extends Float64Array | Float32Array | Int32Array | Int8Array>(from: T, to: T): T {
  to.set(from);
  return to;
}
