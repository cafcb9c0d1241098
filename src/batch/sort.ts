/** Prompts in the order of their tokens, with what neighbours share. */
import { Slice, type Sliced, STEP } from "./slices.js";

export interface Sorted {
  /** Prompts by number; equal ones in the order in which they came. */
  readonly order: Int32Array;
  /** Tokens that each begins with as the one before it in the order does; 0 for the first. */
  readonly shared: Int32Array;
}

/**
 * Merge sort that remembers what neighbours share (Ng and Kakehi, "Merging string sequences by longest common prefixes",
 * 2008): no token that is known to be alike is looked at again, so that long prefixes in common cost one look at each.
 */
export function* sortPrompts(prompts: readonly ArrayLike<number>[]): Sliced<Sorted> {
  const count = prompts.length;
  const slice = new Slice();
  let from: Sorted = { order: new Int32Array(count).map((_, i) => i), shared: new Int32Array(count) };
  let to: Sorted = { order: new Int32Array(count), shared: new Int32Array(count) };
  for (let width = 1; width < count; width *= 2) {
    for (let start = 0; start < count; start += 2 * width) {
      const middle = Math.min(start + width, count);
      yield* merge(prompts, from, to, start, middle, Math.min(middle + width, count), slice);
    }
    [from, to] = [to, from];
  }
  return from;
}

/** Merges two sorted runs, from `start` to `middle` and from there to `end`, into `to`. */
function* merge(
  prompts: readonly ArrayLike<number>[],
  from: Sorted,
  to: Sorted,
  start: number,
  middle: number,
  end: number,
  slice: Slice,
): Sliced<void> {
  let [left, right] = [start, middle];
  /** Tokens that the next of each run shares with what was put out last. */
  let [leftShared, rightShared] = [0, 0];
  for (let at = start; at < end; at++) {
    let takesLeft = leftShared > rightShared;
    let shared = Math.max(leftShared, rightShared);
    if (right === end || left === middle) {
      takesLeft = left < middle;
      shared = takesLeft ? leftShared : rightShared;
    } else if (leftShared === rightShared) {
      const [a, b] = [prompts[from.order[left]!]!, prompts[from.order[right]!]!];
      const alike = sharedFrom(a, b, shared);
      takesLeft = alike === a.length || (alike < b.length && a[alike]! < b[alike]!);
      if (takesLeft) rightShared = alike;
      else leftShared = alike;
      if (slice.spend(alike - shared)) yield;
    }
    to.shared[at] = shared;
    if (takesLeft) {
      to.order[at] = from.order[left++]!;
      leftShared = left < middle ? from.shared[left]! : 0;
    } else {
      to.order[at] = from.order[right++]!;
      rightShared = right < end ? from.shared[right]! : 0;
    }
    if (slice.spend(STEP)) yield;
  }
}

/** Tokens that two prompts begin with alike, which are at least `known`. */
function sharedFrom(a: ArrayLike<number>, b: ArrayLike<number>, known: number): number {
  const most = Math.min(a.length, b.length);
  let alike = known;
  while (alike < most && a[alike] === b[alike]) alike++;
  return alike;
}
