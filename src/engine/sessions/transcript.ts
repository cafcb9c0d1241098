/**
 * The tokens of a stream by their ids: those that wait to be run, and of those that were run the last ones; where what
 * was appended last begins, and what stands at each place.
 */
import { PROBE_TOKENS } from "../../cache/tiers/probe.js";
import type { Before } from "../language.js";
import { RecentTokens } from "./recent-tokens.js";
import { Spoken } from "./spoken.js";
import { TokenQueue } from "./token-queue.js";

/** Positions are 32-bit; the last one is left out. */
export const MOST_TOKENS = 2 ** 31 - 1;
/** Tokens that a stream remembers by id: for penalties, and to go back to. */
export const REMEMBERED = 1024;

/** What a transcript that goes on is made of. */
export interface TranscriptParts {
  readonly recent: RecentTokens;
  readonly waiting: Int32Array;
  readonly lastAppend: number;
  readonly said: number;
  readonly spoken: Spoken;
}

export class Transcript {
  readonly #recent: RecentTokens;
  readonly #queue = new TokenQueue();
  readonly #spoken: Spoken;
  #lastAppend: number;
  #said: number;

  /** Without `parts`, that of an empty stream. */
  constructor(parts?: TranscriptParts) {
    this.#recent = parts?.recent ?? new RecentTokens(REMEMBERED);
    this.#spoken = parts?.spoken ?? Spoken.all("nothing");
    this.#lastAppend = parts?.lastAppend ?? 0;
    this.#said = parts?.said ?? 0;
    if (parts) this.#queue.push(parts.waiting);
  }

  /** A second one that stands where this one does. */
  copy(): Transcript {
    const { lastAppend, said } = this;
    const recent = RecentTokens.from(REMEMBERED, this.ran, this.recent());
    return new Transcript({ recent, waiting: this.waiting, lastAppend, said, spoken: this.#spoken.copy() });
  }

  /** Tokens that have been run: the position of the next one to be. */
  get ran(): number {
    return this.#recent.end;
  }

  get numWaiting(): number {
    return this.#queue.length;
  }

  /** Tokens in all. */
  get length(): number {
    return this.#recent.end + this.#queue.length;
  }

  /** What waits to be run; valid until the stream changes. */
  get waiting(): Int32Array {
    return this.#queue.view();
  }

  /** Where in the stream what was appended last begins. */
  get lastAppend(): number {
    return this.#lastAppend;
  }

  /** Tokens at the end that were sampled one after another: nothing was appended between or behind them. */
  get said(): number {
    return this.#said;
  }

  /** What a further prompt goes on from: to be told what was appended last. */
  get before(): Before {
    return this.#spoken.last;
  }

  set before(before: Before) {
    this.#spoken.note(this.#lastAppend, before);
  }

  /** The id at a position, or undefined where it was run and is not remembered. */
  ranAt(position: number): number | undefined {
    return this.#recent.at(position);
  }

  /** The last ids that were run, at most `REMEMBERED`. */
  recent(): Int32Array {
    return this.#recent.toArray();
  }

  /** The last ids of the stream, at most `REMEMBERED` of them and all that wait. */
  tail(): Int32Array {
    const [known, waiting] = [this.recent(), this.waiting];
    const tail = new Int32Array(known.length + waiting.length);
    tail.set(known);
    tail.set(waiting, known.length);
    return tail;
  }

  /**
   * The end of what was appended last, run or not, and of what was answered since: as much as a probe takes. A copy; empty
   * where all of that was taken back.
   */
  question(): Int32Array {
    const tail = this.tail();
    const count = Math.min(this.length - this.#lastAppend, PROBE_TOKENS, tail.length);
    return tail.slice(tail.length - count);
  }

  /** Puts tokens at the end, to be run. */
  append(tokens: Int32Array): void {
    if (tokens.length === 0) return;
    this.#lastAppend = this.length;
    this.#said = 0;
    this.#queue.push(tokens);
  }

  /** Likewise one that was sampled. */
  say(token: number): void {
    if (this.before === "turn") this.#spoken.note(this.length, "answer");
    this.#queue.push([token]);
    this.#said++;
  }

  /** The next `count` tokens, which count as run from now on; valid until the next call. */
  take(count: number): Int32Array {
    const tokens = this.#queue.take(count);
    this.#recent.push(tokens);
    return tokens;
  }

  /** The tokens of the last `take` wait again; nothing was done since. */
  putBack(count: number): void {
    this.#queue.putBack(count);
    this.#recent.truncate(this.ran - count);
  }

  /** Takes `count` waiting tokens, from position `from` on, out of the stream. */
  remove(from: number, count: number): void {
    this.#queue.remove(from - this.ran, count);
    this.#spoken.remove(from, count);
    if (this.#lastAppend >= from + count) this.#lastAppend -= count;
    this.#cut();
  }

  /** Forgets the tokens at position `to` and after; of those that were run, the one before waits again where `again` says so. */
  truncate(to: number, again: boolean): void {
    this.#said = Math.max(0, this.#said - (this.length - to));
    if (to > this.ran) this.#queue.remove(to - this.ran, this.length - to);
    else {
      const last = again ? this.#recent.at(to - 1) : undefined;
      this.#recent.truncate(last === undefined ? to : to - 1);
      this.#queue.remove(0, this.#queue.length);
      if (last !== undefined) this.#queue.push([last]);
    }
    this.#cut();
  }

  /** Nothing is noted of what lies behind the end. */
  #cut(): void {
    this.#spoken.truncate(this.length);
    this.#lastAppend = Math.min(this.#lastAppend, this.length);
  }
}
