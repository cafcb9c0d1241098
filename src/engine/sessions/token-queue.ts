const LEAST = 64;

/** Tokens that wait to be run, in one array that grows and shrinks with them. */
export class TokenQueue {
  #tokens = new Int32Array(LEAST);
  #first = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** What waits, first to be run first; valid until the queue changes. */
  view(): Int32Array {
    return this.#tokens.subarray(this.#first, this.#first + this.#length);
  }

  push(tokens: ArrayLike<number>): void {
    this.#fit(this.#length + tokens.length);
    this.#tokens.set(tokens, this.#first + this.#length);
    this.#length += tokens.length;
  }

  /** The next `count` tokens; valid until the queue changes. */
  take(count: number): Int32Array {
    const taken = this.#tokens.subarray(this.#first, this.#first + count);
    this.#first += count;
    this.#length -= count;
    return taken;
  }

  /** Puts the last `count` taken tokens back, which nothing was done to the queue since. */
  putBack(count: number): void {
    this.#first -= count;
    this.#length += count;
  }

  /** Takes `count` tokens from place `at` on away. */
  remove(at: number, count: number): void {
    const start = this.#first + at;
    this.#tokens.copyWithin(start, start + count, this.#first + this.#length);
    this.#length -= count;
  }

  /** Makes room behind the last token; what was taken before is forgotten. */
  #fit(length: number): void {
    const size = this.#tokens.length;
    if (this.#first + length <= size && (size <= LEAST || 4 * length > size)) return;
    const kept = this.view();
    const grown = new Int32Array(Math.max(LEAST, 2 * length));
    grown.set(kept);
    this.#tokens = grown;
    this.#first = 0;
  }
}
