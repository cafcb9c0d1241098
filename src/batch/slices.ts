/** Long calculations in slices, for a thread that has others to answer meanwhile. */
import { setImmediate } from "node:timers/promises";

/** A calculation that stands still after each slice. */
export type Sliced<T> = Generator<void, T, void>;

/** Units of work in a slice, each of some nanoseconds: far less in all than a stream would notice. */
export const SLICE = 2 ** 16;
/** What a step of a loop counts for, beside what it reads. */
export const STEP = 16;

/** Counts the work of one slice. */
export class Slice {
  #left = SLICE;

  /** Counts so many units; true where the slice is over, and the next begins. */
  spend(units: number): boolean {
    this.#left -= units;
    if (this.#left > 0) return false;
    this.#left = SLICE;
    return true;
  }
}

/** A new list in the order of `compare`; what it holds equal stays in the order in which it came. */
export function* sorted<T>(items: readonly T[], compare: (a: T, b: T) => number): Sliced<T[]> {
  const slice = new Slice();
  let [from, to] = [[...items], new Array<T>(items.length)];
  for (let width = 1; width < from.length; width *= 2) {
    for (let start = 0; start < from.length; start += 2 * width) {
      const middle = Math.min(start + width, from.length);
      const end = Math.min(middle + width, from.length);
      for (let at = start, left = start, right = middle; at < end; at++) {
        const takesLeft = right === end || (left < middle && compare(from[left]!, from[right]!) <= 0);
        to[at] = takesLeft ? from[left++]! : from[right++]!;
        if (slice.spend(STEP)) yield;
      }
    }
    [from, to] = [to, from];
  }
  return from;
}

/** All slices, one after another. */
export function atOnce<T>(work: Sliced<T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

/** All slices, with a turn of the event loop for others between. */
export async function inSlices<T>(work: Sliced<T>): Promise<T> {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
    await othersTurn();
  }
}

/** Resolves when everybody else has had a turn of the event loop. */
export const othersTurn = (): Promise<void> => setImmediate();
