/**
 * The core of byte-pair encoding, common to SentencePiece and byte-level BPE: while any two neighbours can merge, the
 * pair with the least priority does, the leftmost of equals. n symbols take O(n log n).
 */
export interface Merges {
  /** Index of the merge of two neighbouring symbols, or -1 where they do not merge. */
  find(left: number, right: number): number;
  /** Priority of a merge; the least goes first. */
  priority(merge: number): number;
  /** Symbol that a merge makes. */
  result(merge: number): number;
}

/** Merges the first `count` of `symbols` in place; returns how many are left. */
export type Merger = (symbols: Int32Array, count: number) => number;

/** Working memory for more symbols than these is given back after use. */
const MAX_KEPT = 2 ** 16;

/** The merger owns its working memory; it is not re-entrant. */
export function createMerger(merges: Merges): Merger {
  let previous = new Int32Array(0);
  let next = new Int32Array(0);
  // A binary heap of possible merges, as parallel arrays.
  let heapLeft = new Int32Array(0);
  let heapLeftSymbol = new Int32Array(0);
  let heapRightSymbol = new Int32Array(0);
  let heapMerge = new Int32Array(0);
  let heapPriority = new Float64Array(0);
  let size = 0;

  /** Room for `links` symbols and `entries` of the heap, which keeps what it holds. */
  const resize = (links: number, entries: number) => {
    if (previous.length !== links) {
      previous = new Int32Array(links);
      next = new Int32Array(links);
    }
    const grown = (array: Int32Array) => {
      const larger = new Int32Array(entries);
      larger.set(array.subarray(0, size));
      return larger;
    };
    heapLeft = grown(heapLeft);
    heapLeftSymbol = grown(heapLeftSymbol);
    heapRightSymbol = grown(heapRightSymbol);
    heapMerge = grown(heapMerge);
    const priorities = new Float64Array(entries);
    priorities.set(heapPriority.subarray(0, size));
    heapPriority = priorities;
  };

  const move = (from: number, to: number) => {
    heapLeft[to] = heapLeft[from]!;
    heapLeftSymbol[to] = heapLeftSymbol[from]!;
    heapRightSymbol[to] = heapRightSymbol[from]!;
    heapMerge[to] = heapMerge[from]!;
    heapPriority[to] = heapPriority[from]!;
  };

  const push = (symbols: Int32Array, left: number) => {
    const right = next[left]!;
    if (right < 0) return;
    const merge = merges.find(symbols[left]!, symbols[right]!);
    if (merge < 0) return;
    const priority = merges.priority(merge);
    if (size === heapLeft.length) resize(previous.length, size * 2);
    let at = size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const p = heapPriority[parent]!;
      if (p < priority || (p === priority && heapLeft[parent]! < left)) break;
      move(parent, at);
      at = parent;
    }
    heapLeft[at] = left;
    heapLeftSymbol[at] = symbols[left]!;
    heapRightSymbol[at] = symbols[right]!;
    heapMerge[at] = merge;
    heapPriority[at] = priority;
  };

  /** Takes the first of the heap away, by sifting its last one down from the top. */
  const pop = () => {
    size--;
    const last = size;
    const priority = heapPriority[last]!;
    const left = heapLeft[last]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      const other = child + 1;
      if (other < size) {
        const a = heapPriority[other]!;
        const b = heapPriority[child]!;
        if (a < b || (a === b && heapLeft[other]! < heapLeft[child]!)) child = other;
      }
      const p = heapPriority[child]!;
      if (p > priority || (p === priority && heapLeft[child]! > left)) break;
      move(child, at);
      at = child;
    }
    move(last, at);
  };

  return (symbols, count) => {
    if (count < 2) return count;
    size = 0;
    if (previous.length < count) resize(Math.max(64, count), Math.max(64, count));
    for (let i = 0; i < count; i++) {
      previous[i] = i - 1;
      next[i] = i + 1 < count ? i + 1 : -1;
    }
    for (let i = 0; i + 1 < count; i++) push(symbols, i);
    while (size > 0) {
      const left = heapLeft[0]!;
      const right = next[left]!;
      const stale = right < 0 || symbols[left] !== heapLeftSymbol[0] || symbols[right] !== heapRightSymbol[0];
      const merge = heapMerge[0]!;
      pop();
      if (stale) continue;
      symbols[left] = merges.result(merge);
      symbols[right] = -1;
      const after = next[right]!;
      next[left] = after;
      if (after >= 0) previous[after] = left;
      const before = previous[left]!;
      if (before >= 0) push(symbols, before);
      push(symbols, left);
    }
    let left = 0;
    for (let i = 0; i >= 0; i = next[i]!) symbols[left++] = symbols[i]!;
    if (count > MAX_KEPT) resize(0, 0);
    return left;
  };
}
