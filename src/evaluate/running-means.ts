/** Means over the stretches of a stream whose length nobody knows yet. */

/** Blocks that are held at most; then neighbours become one. */
const MOST_BLOCKS = 4096;

/** Sums of a value per place of a stream, in blocks that grow with it: memory stays the same, whatever its length. */
export class RunningMeans {
  #width = 1;
  #sums: number[] = [];
  #counts: number[] = [];
  #length = 0;

  /** Places so far. */
  get length(): number {
    return this.#length;
  }

  /** The value at the next place; NaN for a place without one. */
  push(value: number): void {
    const block = Math.floor(this.#length / this.#width);
    if (block === MOST_BLOCKS) {
      this.#halve();
      this.push(value);
      return;
    }
    const has = Number.isNaN(value) ? 0 : 1;
    this.#sums[block] = (this.#sums[block] ?? 0) + (has ? value : 0);
    this.#counts[block] = (this.#counts[block] ?? 0) + has;
    this.#length++;
  }

  /** Mean over places [from, to), to the nearest block (at most a four-thousandth of the stream off); NaN where it has none. */
  mean(from = 0, to = this.#length): number {
    const first = Math.round(from / this.#width);
    const last = to >= this.#length ? this.#sums.length : Math.round(to / this.#width);
    let [sum, count] = [0, 0];
    for (let block = first; block < last; block++) {
      sum += this.#sums[block]!;
      count += this.#counts[block]!;
    }
    return sum / count;
  }

  #halve(): void {
    for (const list of [this.#sums, this.#counts]) {
      for (let block = 0; block < MOST_BLOCKS / 2; block++) {
        list[block] = list[2 * block]! + list[2 * block + 1]!;
      }
      list.length = MOST_BLOCKS / 2;
    }
    this.#width *= 2;
  }
}
