/** What was appended to a stream and is not all in yet: who waits for it, where it stands, and how it ends. */
import { logProbability } from "../../decoding/score.js";
import { MillraceError } from "../../errors.js";
import type { Scores } from "../protocol.js";
import { type Standing, tooLate } from "../standing.js";

export interface AppendListener {
  /** All of its tokens are in, as many as may be of them waiting. */
  end(): void;
  fail(error: MillraceError): void;
}

export interface Append {
  readonly id: number;
  readonly listener: AppendListener;
  /** Filled in as its tokens are run; null where nobody asks. */
  readonly scores: Scores | null;
  /** Its deadline is on the engine's clock. */
  readonly standing: Standing;
}

/** One, and where it stands in the stream. */
interface Placed extends Append {
  from: number;
  end: number;
  readonly askedAt: number;
}

/** Tokens that are to be taken out of a stream. */
export interface Stretch {
  readonly from: number;
  readonly count: number;
}

/** Appends under way, in the order of the stream. */
export class Appends {
  readonly #placed: Placed[] = [];

  /** Notes an append whose tokens stand from position `from` to `end`. */
  add(append: Append, from: number, end: number): void {
    this.#placed.push({ ...append, from, end, askedAt: performance.now() });
  }

  /** Where the first of them begins; null where there is none. */
  get from(): number | null {
    return this.#placed[0]?.from ?? null;
  }

  /** Where the last of what is to be scored ends; 0 where nothing is. */
  get scoredEnd(): number {
    return this.#placed.findLast(({ scores }) => scores !== null)?.end ?? 0;
  }

  /** Whose come first. */
  get client(): string | undefined {
    return this.#placed.find(({ standing }) => standing.client !== undefined)?.standing.client;
  }

  /** The highest; undefined where there is none. */
  get priority(): number | undefined {
    let most: number | undefined;
    for (const { standing } of this.#placed) most = Math.max(most ?? -Infinity, standing.priority ?? 0);
    return most;
  }

  /** The nearest; Infinity where none has one. */
  get deadline(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { standing } of this.#placed) next = Math.min(next, standing.deadline ?? next);
    return next;
  }

  /** Notes what the model gave to the token at `position`, where that is asked for. */
  score(position: number, logits: Float32Array): void {
    const append = this.#placed.find(({ from, end }) => position >= from && position < end);
    if (!append?.scores) return;
    const { tokens, logprobs } = append.scores;
    const at = position - append.from;
    logprobs[at] = logProbability(logits, tokens[at]!);
  }

  /** Ends those that are in: no more of them waits than may, when `ran` tokens have been run; of what is scored only one. */
  settle(ran: number, mayWait: number): void {
    for (let append = this.#placed[0]; append !== undefined; append = this.#placed[0]) {
      if (append.end - (append.scores ? 1 : mayWait) > ran) break;
      this.#placed.shift();
      append.listener.end();
    }
  }

  /** Fails one with ABORTED, `ran` and `waiting` tokens being in; returns what has not been run of it. Null where it has ended. */
  abandon(id: number, ran: number, waiting: number): Stretch | null {
    const append = this.#placed.find((each) => each.id === id);
    if (!append) return null;
    return this.#takeBack(append, ran, waiting, (taken) => {
      const left = sayTaken(taken);
      return new MillraceError("ABORTED", `The caller's signal ended the append: ${left}.`, { ...taken });
    });
  }

  /** Likewise for the first whose deadline has passed by `now`, with DEADLINE_PASSED; null where none has. */
  expire(now: number, ran: number, waiting: number): Stretch | null {
    const append = this.#placed.find(({ standing }) => (standing.deadline ?? Infinity) <= now);
    if (!append) return null;
    return this.#takeBack(append, ran, waiting, (taken) =>
      tooLate("append", append.askedAt, { ...taken }, sayTaken(taken)),
    );
  }

  #takeBack(append: Placed, ran: number, waiting: number, error: (taken: Taken) => MillraceError): Stretch {
    let from = Math.max(append.from, ran);
    // One token must wait: else there would be nothing to go on from.
    if (waiting > 0 && waiting === append.end - from) from++;
    const count = append.end - from;
    const at = this.#placed.indexOf(append);
    for (const later of this.#placed.slice(at + 1)) {
      later.from -= count;
      later.end -= count;
    }
    this.#placed.splice(at, 1);
    const tokens = append.end - append.from;
    append.listener.fail(error({ tokens, taken: tokens - count }));
    return { from, count };
  }

  /** Fails those that reach beyond position `to`, where the stream ends now. */
  rewind(to: number): void {
    for (const append of this.#placed.splice(0)) {
      if (append.end <= to) this.#placed.push(append);
      else
        append.listener.fail(new MillraceError("ABORTED", "The session was rewound to before these tokens."));
    }
  }

  /** Fails all; where the stream goes on, their tokens before position `kept` are in, which the errors then say. */
  failAll(error: MillraceError, kept: number | null): void {
    for (const { from, end, listener } of this.#placed.splice(0)) {
      if (kept === null) listener.fail(error);
      else {
        const taken = Math.max(0, Math.min(end, kept) - from);
        listener.fail(new MillraceError(error.code, error.message, { ...error.details, taken }));
      }
    }
  }
}

/** Of an append's tokens, those that are in the stream. */
interface Taken {
  readonly tokens: number;
  readonly taken: number;
}

const sayTaken = ({ tokens, taken }: Taken): string =>
  `${taken} of its ${tokens} tokens are in, the others are not`;
