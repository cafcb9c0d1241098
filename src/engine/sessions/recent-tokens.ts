/** The last tokens of a stream by their position, in memory that does not grow. */
export class RecentTokens {
  readonly #ring: Int32Array;
  #end = 0;
  #length = 0;

  constructor(capacity: number) {
    this.#ring = new Int32Array(capacity);
  }

  /** Position of the next token. */
  get end(): number {
    return this.#end;
  }

  push(tokens: ArrayLike<number>): void {
    for (let i = 0; i < tokens.length; i++) this.#ring[this.#end++ % this.#ring.length] = tokens[i]!;
    this.#length = Math.min(this.#ring.length, this.#length + tokens.length);
  }

  /** The token at a position, or undefined where it is not remembered. */
  at(position: number): number | undefined {
    if (position < this.#end - this.#length || position >= this.#end) return undefined;
    return this.#ring[position % this.#ring.length];
  }

  /** Forgets the tokens at `end` and after. */
  truncate(end: number): void {
    this.#length = Math.max(0, this.#length - (this.#end - end));
    this.#end = end;
  }

  /** What is remembered, oldest first. */
  toArray(): Int32Array {
    return Int32Array.from({ length: this.#length }, (_, i) => this.at(this.#end - this.#length + i)!);
  }

  /** One that remembers `tokens`, the last of which stands before position `end`. */
  static from(capacity: number, end: number, tokens: Int32Array): RecentTokens {
    const recent = new RecentTokens(capacity);
    recent.#end = end - tokens.length;
    recent.push(tokens);
    return recent;
  }
}
