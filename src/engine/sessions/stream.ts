/**
 * A sequence that lives on: tokens are appended to it at any time, and answers are sampled from it one after another.
 * To the scheduler it is a request while it has work, one that comes in turns, since it may have work for ever.
 *
 * The last token is not run until something follows it or an answer is asked for, since its logits are what an answer
 * starts from: once anything was appended, one token at least is always waiting.
 */
import type { CacheEvent, SequenceCache } from "../../cache/sequence.js";
import type { FinishReason } from "../../decoding/contract.js";
import { MillraceError } from "../../errors.js";
import type { Outputs, Phase } from "../../scheduler/contract.js";
import type { SessionReport } from "../protocol.js";
import type { Standing } from "../standing.js";
import type { Place, Task } from "../task.js";
import { type Answer, Answering, type AnswerListener } from "./answering.js";
import type { Append } from "./appends.js";
import type { StreamState } from "./stream-state.js";
import { MOST_TOKENS, type Transcript } from "./transcript.js";
import { Work } from "./work.js";

/** Tokens that may wait when more are appended. */
const MOST_WAITING = 2 ** 20;

/** Told during steps and calls; must not call back. */
export interface StreamListener {
  /** There is work: the stream wants to stand in the line. */
  work(stream: Stream): void;
  /** Between steps: there is none any more. */
  rest(stream: Stream): void;
  report(report: SessionReport): void;
  change(event: CacheEvent): void;
  /** Of tokens that are about to be run, and of their positions; valid during the call. Absent: nobody asks. */
  take?(positions: Int32Array, tokens: Int32Array): void;
}

export interface StreamParts {
  readonly id: number;
  readonly place: Place;
  readonly state: StreamState;
  /** Most tokens that the cache takes in all; Infinity where the policy lets go of some. */
  readonly capacity: number;
  /**
   * Most tokens of what was appended last that wait until more follows or an answer is asked for, since they may be a
   * question that is to be looked into first. At least 1.
   */
  readonly heldBack: number;
  /** Number of the adapter that its tokens run with; absent: none. */
  readonly adapter?: number;
  readonly listener: StreamListener;
}

export class Stream implements Task {
  readonly id: number;
  readonly place: Place;
  readonly cache: SequenceCache;
  /** Its tokens; only the stream changes them. */
  readonly transcript: Transcript;
  readonly capacity: number;
  readonly adapter?: number;
  /** Its pages are its own. */
  readonly pages = 0;
  readonly resident = true;
  arrivedAt = 0;
  cancelled = false;
  readonly #state: StreamState;
  readonly #listener: StreamListener;
  readonly #work: Work;
  #idle: (() => void)[] = [];
  #paused = false;
  /** Tokens that this step took. */
  #taken = 0;
  /** Tokens that its turn has left; at least 1 between steps. */
  #turn: number;
  /** Position of the token whose logits come next. */
  #row = 0;
  /** Why nothing can be done with it any more. */
  #broken: MillraceError | null = null;

  constructor(parts: StreamParts) {
    this.id = parts.id;
    this.place = parts.place;
    this.#state = parts.state;
    this.cache = parts.state.cache;
    this.transcript = parts.state.transcript;
    this.capacity = parts.capacity;
    if (parts.adapter !== undefined) this.adapter = parts.adapter;
    this.#listener = parts.listener;
    this.#work = new Work(this.transcript, parts.heldBack);
    this.#turn = parts.place.layout.step;
    this.cache.onChange((event) => parts.listener.change(event));
  }

  /** Tokens in all, those that wait included. */
  get length(): number {
    return this.transcript.length;
  }

  /** The answer under way, for another stream to take up. */
  get answer(): Answer | null {
    return this.#work.answer;
  }

  report(): SessionReport {
    return this.#state.report();
  }

  /** Resolves when nothing is left to run but what is held back, or a step has failed, or the stream has broken. */
  idle(): Promise<void> {
    if (this.#broken || this.#work.left === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }

  /**
   * Tokens that follow all others. Throws PROMPT_TOO_LONG where they do not fit what the cache can hold, OUT_OF_BUDGET
   * while too many wait. What is scored is filled in when the listener hears of the end.
   */
  append(tokens: Int32Array, append: Append): void {
    this.#checkUsable();
    const { transcript } = this;
    const end = transcript.length + tokens.length;
    if (end > Math.min(this.capacity, MOST_TOKENS)) {
      throw tooLong(tokens.length, transcript.length, this.capacity);
    }
    if (transcript.numWaiting > MOST_WAITING) {
      const waiting = transcript.numWaiting;
      const message = `${waiting} tokens wait to be run; await what was appended before appending more.`;
      throw new MillraceError("OUT_OF_BUDGET", message, { waiting, most: MOST_WAITING });
    }
    this.#work.append(tokens, append);
    this.#changed();
  }

  /** Takes back what of an append has not been run, and fails it with ABORTED. Unknown ids are of appends that ended. */
  abandon(id: number): void {
    if (this.#work.abandon(id)) this.#changed();
  }

  /**
   * Starts an answer, or takes one up; it pauses when it has given `credit` emissions. Throws INVALID_ARGUMENT where there
   * is nothing to go on from or one is under way, PROMPT_TOO_LONG where the cache is full.
   */
  ask(answer: Answer, credit: number, listener: AnswerListener, standing: Standing): void {
    this.checkAskable();
    this.#work.answer = new Answering(answer, credit, listener, standing);
    this.#changed();
  }

  /** Throws what `ask` would. */
  checkAskable(): void {
    this.#checkUsable();
    if (this.#work.answer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session is answering already; read that answer to its end, or break it off, before asking for another.",
      );
    }
    if (this.transcript.numWaiting === 0) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session has nothing to go on from; append something before asking for an answer.",
      );
    }
    if (this.cache.length >= this.capacity) throw tooLong(1, this.length, this.capacity);
  }

  /** Lets the answer give `emissions` more before it pauses. */
  grant(emissions: number): void {
    if (!this.#work.answer) return;
    this.#work.answer.grant(emissions);
    this.#changed();
  }

  /** Ends the answer with "aborted"; what it said stays in the stream. */
  breakOff(): void {
    if (!this.#work.answer) return;
    this.#end("aborted");
    this.#changed();
  }

  /**
   * Forgets the tokens at position `to` and after. Returns what is left of those before: see SequenceCache.rewindable.
   * Throws INVALID_ARGUMENT where the policy no longer holds the tokens around, or an answer is under way.
   */
  rewind(to: number): "exact" | "approximate" {
    this.#checkUsable();
    if (this.#work.answer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session is answering; end the answer before rewinding.",
      );
    }
    if (!Number.isSafeInteger(to) || to < 0 || to > this.length) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Cannot rewind to position ${to}; the session has seen ${this.length} tokens.`,
        { to, seen: this.length },
      );
    }
    const left = this.#state.rewind(to);
    this.#work.rewound();
    this.#changed();
    return left;
  }

  /** What a second stream goes on from, on the same pages; the answer stays here. Throws OUT_OF_BUDGET. */
  fork(): StreamState {
    this.#checkUsable();
    return this.#state.fork();
  }

  /** Nothing of it runs until `resume`. */
  pause(): void {
    this.#paused = true;
    this.#changed();
  }

  resume(): void {
    this.#paused = false;
    this.#changed();
  }

  /** Frees its pages. What is under way fails with `error`; idempotent. It stands in no line. */
  close(error: MillraceError): void {
    this.#broken ??= error;
    this.#work.end(error);
    this.cache.dispose();
    this.#tellIdle();
  }

  /** In this turn. */
  get pending(): number {
    return Math.min(this.#turn, this.#ready);
  }

  get outputs(): Outputs {
    return this.#work.outputs(this.#turn);
  }

  get phase(): Phase {
    return this.#work.phase;
  }

  get client(): string | undefined {
    return this.#work.client;
  }

  get priority(): number | undefined {
    return this.#work.priority;
  }

  get deadline(): number | undefined {
    return this.#work.deadline;
  }

  get chunk(): number {
    return this.cache.maxIncoming();
  }

  get cached(): number {
    return this.cache.held;
  }

  get done(): boolean {
    return this.#broken !== null || (this.#work.answer === null && this.#ready === 0);
  }

  admit(): void {
    this.#turn = this.place.layout.step;
  }

  take(count: number): Int32Array {
    this.#work.answer?.start();
    this.#taken = count;
    this.#turn -= count;
    const tokens = this.transcript.take(count);
    const { ran } = this.transcript;
    this.#row = ran - (this.#work.scores ? count : 1);
    if (this.#listener.take) {
      const positions = Int32Array.from(tokens, (_, i) => ran - count + i);
      this.#listener.take(positions, tokens);
    }
    return tokens;
  }

  accept(logits: Float32Array, now: number): void {
    const position = this.#row++;
    this.#work.score(position + 1, logits);
    // What the stream holds back has not run: nothing goes on from here yet.
    const { ran, numWaiting } = this.transcript;
    if (position === ran - 1 && numWaiting === 0) this.#say(logits, now);
  }

  #say(logits: Float32Array, now: number): void {
    const answer = this.#work.answer;
    // It was broken off while the step was under way.
    if (!answer) return;
    const finish = answer.accept(logits, now);
    this.#taken = 0;
    this.transcript.say(answer.decoder.sampled!);
    if (finish) this.#end(finish);
    else if (this.cache.length >= Math.min(this.capacity, MOST_TOKENS)) this.#endShort("cache-full");
  }

  settle(): void {
    this.#taken = 0;
    this.#work.settle();
    this.#report();
    if (this.#work.left === 0) this.#tellIdle();
  }

  endTurn(): boolean {
    if (this.pending > 0) return false;
    this.#turn = this.place.layout.step;
    return true;
  }

  /** Ends what is too late: an answer with what it has said, an append with what is in. */
  expire(now: number): void {
    this.#work.expireAppends(now);
    const { answer } = this.#work;
    if (answer && (answer.standing.deadline ?? Infinity) <= now) {
      if (answer.hasStarted) this.#endShort("deadline");
      else {
        this.#work.answer = null;
        answer.expire();
      }
    }
    this.#changed();
  }

  cancel(): void {
    this.breakOff();
  }

  /** The tokens of the step are put back; what appended those that wait fails, and they do not stay, save the first. */
  fail(error: MillraceError): void {
    try {
      this.#turn = this.place.layout.step;
      this.#state.putBack(this.#taken);
      this.#taken = 0;
    } catch (cause) {
      this.close(MillraceError.from(cause));
      return;
    }
    this.#work.undo(error);
    this.#report();
    this.#tellIdle();
  }

  /** Tokens that are to be run, in this turn and later ones. */
  get #ready(): number {
    return this.#paused || this.#broken ? 0 : this.#work.left;
  }

  /** Ends before the decoder has: what it held back is said first. */
  #endShort(finishReason: FinishReason): void {
    this.#work.answer?.flush();
    this.#end(finishReason);
  }

  #end(finishReason: FinishReason): void {
    const answer = this.#work.answer;
    if (!answer) return;
    this.#work.answer = null;
    if (finishReason === "stop-string") this.#state.unsay(answer.decoder.unsaid);
    answer.end(finishReason, this.cache.report());
    this.#report();
  }

  /** Between steps, after whatever may have changed what there is to run. */
  #changed(): void {
    if (this.done) this.#listener.rest(this);
    else this.#listener.work(this);
    this.#report();
    if (this.#work.left === 0) this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#idle.length === 0) return;
    for (const tell of this.#idle.splice(0)) tell();
  }

  #report(): void {
    if (!this.#broken) this.#listener.report(this.report());
  }

  #checkUsable(): void {
    if (this.#broken) throw this.#broken;
  }
}

function tooLong(tokens: number, seen: number, capacity: number): MillraceError {
  const most = Math.min(capacity, MOST_TOKENS);
  return new MillraceError(
    "PROMPT_TOO_LONG",
    `${tokens} more tokens after ${seen}, and this session's cache holds ${most} in all. Rewind, give the session more ` +
      "memory, or choose a policy that lets tokens go, such as sinks({ window }).",
    { tokens, seen, capacity: most },
  );
}
