/**
 * Learning byte-pair merges from counted words: again and again the most frequent pair of neighbours becomes one
 * symbol. Pair counts are kept up to date word by word and the next pair comes from a heap, so that a merge costs what
 * it changes, not the whole text.
 *
 * Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016).
 */

export interface LearnedMerge {
  readonly left: number;
  readonly right: number;
  /** Symbol that the merge makes: the next free one, or an older one that is written the same. */
  readonly result: number;
}

export interface MergeQuestion {
  /** Words as symbols; changed by the call. */
  readonly words: Int32Array[];
  /** How often each word stands in the text. */
  readonly counts: readonly number[];
  /** How symbols are written, one to start with for every symbol in `words`; grows by what merges make. */
  readonly pieces: string[];
  /** Symbols to end with. */
  readonly size: number;
  /** A pair that occurs less often is not merged. */
  readonly minCount: number;
}

/** Symbols fit into half a double's whole numbers. */
const RADIX = 2 ** 26;

/**
 * Merges in the order in which they apply; fewer than asked for where no pair is left that occurs `minCount` times.
 * Of equally frequent pairs the one with the lower left symbol goes first, then the lower right one, so the result
 * depends on the counts alone and not on the order of the text.
 */
export function learnMerges(question: MergeQuestion): LearnedMerge[] {
  const { words, counts, pieces, size, minCount } = question;
  const symbols = new Map(pieces.map((piece, symbol) => [piece, symbol]));
  const pairCounts = new Map<number, number>();
  const pairWords = new Map<number, Set<number>>();
  const heap = new PairHeap();

  const add = (pair: number, count: number, word: number): void => {
    pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + count);
    const places = pairWords.get(pair);
    if (places) places.add(word);
    else pairWords.set(pair, new Set([word]));
  };
  words.forEach((word, index) => {
    for (let i = 0; i + 1 < word.length; i++) add(word[i]! * RADIX + word[i + 1]!, counts[index]!, index);
  });
  for (const [pair, count] of pairCounts) heap.push(count, pair);

  const merges: LearnedMerge[] = [];
  const done = new Set<number>();
  while (pieces.length < size) {
    const top = heap.pop();
    if (!top) break;
    const actual = pairCounts.get(top.pair) ?? 0;
    if (actual !== top.count) {
      if (actual >= minCount) heap.push(actual, top.pair);
      continue;
    }
    if (actual < minCount) break;
    const left = Math.floor(top.pair / RADIX);
    const right = top.pair % RADIX;
    const piece = pieces[left]! + pieces[right]!;
    let result = symbols.get(piece);
    if (result === undefined) {
      result = pieces.length;
      pieces.push(piece);
      symbols.set(piece, result);
    }
    // A pair comes back where another merge made an older symbol anew; its merge stands in the list already.
    if (!done.has(top.pair)) merges.push({ left, right, result });
    done.add(top.pair);

    const places = pairWords.get(top.pair)!;
    pairCounts.delete(top.pair);
    pairWords.delete(top.pair);
    const grown = new Set<number>();
    for (const index of places) {
      const word = words[index]!;
      const merged = mergeWord(word, left, right, result);
      if (merged.length === word.length) continue;
      const count = counts[index]!;
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = word[i]! * RADIX + word[i + 1]!;
        const before = pairCounts.get(pair);
        if (before !== undefined) pairCounts.set(pair, before - count);
      }
      for (let i = 0; i + 1 < merged.length; i++) {
        const pair = merged[i]! * RADIX + merged[i + 1]!;
        add(pair, count, index);
        if (merged[i] === result || merged[i + 1] === result) grown.add(pair);
      }
      words[index] = merged;
    }
    for (const pair of grown) heap.push(pairCounts.get(pair)!, pair);
  }
  return merges;
}

/** `word` with every `left` `right` made `result`, from the left; a copy where there is one. */
function mergeWord(word: Int32Array, left: number, right: number, result: number): Int32Array {
  const merged = new Int32Array(word.length);
  let length = 0;
  for (let i = 0; i < word.length; i++) {
    const joins = word[i] === left && i + 1 < word.length && word[i + 1] === right;
    merged[length++] = joins ? result : word[i]!;
    if (joins) i++;
  }
  return length === word.length ? word : merged.slice(0, length);
}

/** A binary heap: the highest count first, then the lowest pair. */
class PairHeap {
  readonly #counts: number[] = [];
  readonly #pairs: number[] = [];

  push(count: number, pair: number): void {
    let at = this.#counts.length;
    this.#counts.push(count);
    this.#pairs.push(pair);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(at, parent)) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  pop(): { count: number; pair: number } | undefined {
    const last = this.#counts.length - 1;
    if (last < 0) return undefined;
    this.#swap(0, last);
    const top = { count: this.#counts.pop()!, pair: this.#pairs.pop()! };
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= last) break;
      const child = left + 1 < last && this.#before(left + 1, left) ? left + 1 : left;
      if (!this.#before(child, at)) break;
      this.#swap(child, at);
      at = child;
    }
    return top;
  }

  #before(a: number, b: number): boolean {
    const difference = this.#counts[a]! - this.#counts[b]!;
    return difference > 0 || (difference === 0 && this.#pairs[a]! < this.#pairs[b]!);
  }

  #swap(a: number, b: number): void {
    [this.#counts[a], this.#counts[b]] = [this.#counts[b]!, this.#counts[a]!];
    [this.#pairs[a], this.#pairs[b]] = [this.#pairs[b]!, this.#pairs[a]!];
  }
}
