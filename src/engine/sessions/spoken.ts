/** What stands before each place of a stream, so that a prompt goes on from there also after the stream went back. */
import type { Before } from "../language.js";

/** What a stream remembers of this, however long it becomes; further back counts as the oldest of it. */
const MOST_CHANGES = 256;

export class Spoken {
  /** What stands behind position `from`, up to that of the next; behind the first begins the stream. */
  readonly #changes: { from: number; readonly before: Before }[];

  private constructor(changes: { from: number; readonly before: Before }[]) {
    this.#changes = changes;
  }

  /** All of the stream is this. */
  static all(before: Before): Spoken {
    return new Spoken(before === "nothing" ? [] : [{ from: 0, before }]);
  }

  copy(): Spoken {
    return new Spoken(this.#changes.map((change) => ({ ...change })));
  }

  /** At the end of the stream. */
  get last(): Before {
    return this.#changes.at(-1)?.before ?? "nothing";
  }

  /** What follows position `from` is this. */
  note(from: number, before: Before): void {
    this.truncate(from);
    if (before === this.last) return;
    this.#changes.push({ from, before });
    if (this.#changes.length <= MOST_CHANGES) return;
    this.#changes.shift();
    this.#changes[0]!.from = 0;
  }

  /** The stream ends at `to`. */
  truncate(to: number): void {
    while ((this.#changes.at(-1)?.from ?? -1) >= to) this.#changes.pop();
  }

  /** `count` tokens at `from` are taken out of the stream. */
  remove(from: number, count: number): void {
    for (const change of this.#changes) {
      if (change.from > from) change.from = Math.max(from, change.from - count);
    }
  }
}
