/**
 * A sequence that lives on: tokens are appended to it at any time, and answers are sampled from it one after another.
 * To the scheduler it is a request while it has work, one that comes in turns, since it may have work for ever.
 *
 * The last token is not run until something follows it or an answer is asked for, since its logits are what an answer
 * starts from: once anything was appended, one token at least is always waiting.
 */
import type { CacheEvent, SequenceCache } from "../../cache/sequence.js";
import { PROBE_TOKENS } from "../../cache/tiers/probe.js";
import type { Emission, FinishReason } from "../../decoding/contract.js";
import type { PlainDecoder } from "../../decoding/plain.js";
import { logProbability } from "../../decoding/score.js";
import { MillraceError } from "../../errors.js";
import type { Outputs, Phase } from "../../scheduler/contract.js";
import type { Before } from "../language.js";
import type { AnswerParameters, Scores, SessionReport } from "../protocol.js";
import type { RequestEnd } from "../request.js";
import type { Standing } from "../standing.js";
import type { Place, Task } from "../task.js";
import { RecentTokens } from "./recent-tokens.js";
import { Spoken } from "./spoken.js";
import { TokenQueue } from "./token-queue.js";

/** Positions are 32-bit; the last one is left out. */
export const MOST_TOKENS = 2 ** 31 - 1;
/** Tokens that may wait when more are appended. */
export const MOST_WAITING = 2 ** 20;
/** Tokens that a stream remembers by id: for penalties, and to go back to. */
export const REMEMBERED = 1024;

export interface AnswerListener {
  emit(emission: Emission): void;
  end(end: RequestEnd & { readonly seed: number }): void;
  fail(error: MillraceError): void;
}

export interface AppendListener {
  /** All of its tokens are in, the very last perhaps waiting. */
  end(): void;
  fail(error: MillraceError): void;
}

interface Append {
  readonly id: number;
  /** Positions in the stream. */
  from: number;
  end: number;
  readonly listener: AppendListener;
  readonly scores: Scores | null;
  /** Its deadline is on the engine's clock. */
  readonly standing: Standing;
  readonly askedAt: number;
}

/** An answer under way, in the form that another stream can take up. */
export interface Answer {
  readonly parameters: AnswerParameters & { readonly maxTokens: number };
  readonly decoder: PlainDecoder;
  /** Tokens that waited when it was asked for. */
  readonly promptTokens: number;
}

interface Answering extends Answer {
  readonly id: number;
  readonly listener: AnswerListener;
  readonly standing: Standing;
  credit: number;
  generated: number;
  readonly askedAt: number;
  startedAt: number;
  firstAt: number;
  lastAt: number;
}

export interface StreamParts {
  readonly id: number;
  readonly place: Place;
  readonly cache: SequenceCache;
  /** Most tokens that the cache takes in all; Infinity where the policy lets go of some. */
  readonly capacity: number;
  readonly recent?: RecentTokens;
  readonly waiting?: Int32Array;
  /** Where what was appended last begins. Default: where that begins that waits. */
  readonly lastAppend?: number;
  readonly spoken?: Spoken;
  /**
   * Most tokens of what was appended last that wait until more follows or an answer is asked for, since they may be a
   * question that is to be looked into first. Default 1.
   */
  readonly heldBack?: number;
  /** Told of tokens that are about to be run, and of their positions; valid during the call. */
  readonly onTake?: (positions: Int32Array, tokens: Int32Array) => void;
  /** Number of the adapter that its tokens run with; absent: none. */
  readonly adapter?: number;
  /** There is work: the stream wants to stand in the line. */
  readonly wake: (stream: Stream) => void;
  readonly onReport: (report: SessionReport) => void;
  readonly onChange: (event: CacheEvent) => void;
}

export class Stream implements Task {
  readonly id: number;
  readonly place: Place;
  readonly cache: SequenceCache;
  readonly capacity: number;
  readonly adapter?: number;
  /** Its pages are its own. */
  readonly pages = 0;
  readonly resident = true;
  arrivedAt = 0;
  cancelled = false;
  readonly #parts: StreamParts;
  readonly #queue = new TokenQueue();
  readonly #recent: RecentTokens;
  readonly #spoken: Spoken;
  readonly #appends: Append[] = [];
  readonly #mostHeldBack: number;
  /** Where in the stream what was appended last begins. */
  #lastAppend: number;
  #answer: Answering | null = null;
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
    this.#parts = parts;
    this.id = parts.id;
    this.place = parts.place;
    this.cache = parts.cache;
    this.capacity = parts.capacity;
    if (parts.adapter !== undefined) this.adapter = parts.adapter;
    this.#recent = parts.recent ?? new RecentTokens(REMEMBERED);
    this.#spoken = parts.spoken ?? Spoken.all("nothing");
    this.#mostHeldBack = parts.heldBack ?? 1;
    this.#lastAppend = parts.lastAppend ?? parts.cache.nextPosition;
    this.#turn = parts.place.layout.step;
    if (parts.waiting) this.#queue.push(parts.waiting);
    this.cache.onChange((event) => parts.onChange(event));
  }

  /** Tokens in all, those that wait included. */
  get length(): number {
    return this.cache.nextPosition + this.#queue.length;
  }

  /** What a further prompt goes on from: to be told what was appended last. */
  get before(): Before {
    return this.#spoken.last;
  }

  set before(before: Before) {
    this.#spoken.note(this.#lastAppend, before);
  }

  /** The answer under way, for another stream to take up. */
  get answer(): Answer | null {
    return this.#answer;
  }

  /** What waits to be run; valid until the stream changes. */
  get waiting(): Int32Array {
    return this.#queue.view();
  }

  /** The end of what was appended last, run or not, and of what was answered since: as much as a probe takes. A copy. */
  get question(): Int32Array {
    const tail = this.tail();
    const count = Math.min(this.length - this.#lastAppend, PROBE_TOKENS, tail.length);
    return tail.slice(tail.length - count);
  }

  get lastAppend(): number {
    return this.#lastAppend;
  }

  /** Tokens that wait for more: of what was appended last some, and one at least. */
  get #heldBack(): number {
    return Math.max(1, Math.min(this.#mostHeldBack, this.length - this.#lastAppend));
  }

  /** Resolves when nothing is left to run but what is held back, or the stream has broken. */
  idle(): Promise<void> {
    if (this.#ready === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }

  get recent(): RecentTokens {
    return this.#recent;
  }

  report(): SessionReport {
    const { groups: _, ...report } = this.cache.report();
    return { ...report, waiting: this.#queue.length };
  }

  /** The last ids of the stream, at most `REMEMBERED` of them and all that wait. */
  tail(): Int32Array {
    const [known, waiting] = [this.#recent.toArray(), this.#queue.view()];
    const tail = new Int32Array(known.length + waiting.length);
    tail.set(known);
    tail.set(waiting, known.length);
    return tail;
  }

  /**
   * Tokens that follow all others. Throws PROMPT_TOO_LONG where they do not fit what the cache can hold, OUT_OF_BUDGET
   * while too many wait. `scores` are those of these tokens, and filled in when the listener hears of the end.
   */
  append(
    id: number,
    tokens: Int32Array,
    listener: AppendListener,
    { scores = null, standing = {} }: { readonly scores?: Scores | null; readonly standing?: Standing } = {},
  ): void {
    this.#checkUsable();
    const from = this.length;
    const end = from + tokens.length;
    if (end > Math.min(this.capacity, MOST_TOKENS)) throw tooLong(tokens.length, from, this.capacity);
    if (this.#queue.length > MOST_WAITING) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `${this.#queue.length} tokens wait to be run; await what was appended before appending more.`,
        { waiting: this.#queue.length, most: MOST_WAITING },
      );
    }
    this.#queue.push(tokens);
    this.#lastAppend = from;
    const askedAt = performance.now();
    this.#appends.push({ id, from, end, listener, scores, standing, askedAt });
    this.#settleAppends();
    this.#wake();
  }

  /** Takes back what of an append has not been run, and fails it with ABORTED. Unknown ids are of appends that ended. */
  abandon(id: number): void {
    const append = this.#appends.find((each) => each.id === id);
    if (!append) return;
    this.#takeBack(append, (details) => notTaken("The caller's signal ended the append", details));
    this.#report();
  }

  /** Takes back what of an append has not been run, and fails it. */
  #takeBack(append: Append, error: (details: Taken) => MillraceError): void {
    const next = this.cache.nextPosition;
    let from = Math.max(append.from, next);
    // One token must wait: else there would be nothing to go on from.
    if (this.#queue.length === append.end - from) from++;
    const count = append.end - from;
    this.#queue.remove(from - next, count);
    this.#spoken.remove(from, count);
    this.#spoken.truncate(this.length);
    for (const later of this.#appends.slice(this.#appends.indexOf(append) + 1)) {
      later.from -= count;
      later.end -= count;
    }
    this.#appends.splice(this.#appends.indexOf(append), 1);
    const tokens = append.end - append.from;
    append.listener.fail(error({ tokens, taken: tokens - count }));
  }

  /**
   * Starts an answer, or takes one up. Throws INVALID_ARGUMENT where there is nothing to go on from or one is under
   * way, PROMPT_TOO_LONG where the cache is full.
   */
  ask(id: number, answer: Answer, credit: number, listener: AnswerListener, standing: Standing = {}): void {
    this.checkAskable();
    const now = performance.now();
    const times = { askedAt: now, startedAt: Number.NaN, firstAt: Number.NaN, lastAt: Number.NaN };
    this.#answer = { ...answer, id, listener, standing, credit, generated: 0, ...times };
    if (this.before !== "text") this.#spoken.note(this.length, "answer");
    this.#wake();
  }

  /** Throws what `ask` would. */
  checkAskable(): void {
    this.#checkUsable();
    if (this.#answer) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session is answering already; read that answer to its end, or break it off, before asking for another.",
      );
    }
    if (this.#queue.length === 0) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The session has nothing to go on from; append something before asking for an answer.",
      );
    }
    if (this.cache.length >= this.capacity) throw tooLong(1, this.length, this.capacity);
  }

  /** Lets the answer give `emissions` more before it pauses. */
  grant(emissions: number): void {
    if (!this.#answer) return;
    this.#answer.credit += emissions;
    this.#wake();
  }

  /** Ends the answer with "aborted"; what it said stays in the stream. */
  breakOff(): void {
    this.#end("aborted");
  }

  /**
   * Forgets the tokens at position `to` and after. Returns what is left of those before: see SequenceCache.rewindable.
   * Throws INVALID_ARGUMENT where the policy no longer holds the tokens around, or an answer is under way.
   */
  rewind(to: number): "exact" | "approximate" {
    this.#checkUsable();
    if (this.#answer) {
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
    const left = this.#truncate(to);
    this.#lastAppend = Math.min(this.#lastAppend, to);
    for (const append of this.#appends.splice(0)) {
      if (append.end <= to) this.#appends.push(append);
      else
        append.listener.fail(new MillraceError("ABORTED", "The session was rewound to before these tokens."));
    }
    this.#settleAppends();
    this.#spoken.truncate(to);
    this.#report();
    return left;
  }

  /** Parts of a stream that goes on from here, on the same pages; the answer stays here. Throws OUT_OF_BUDGET. */
  fork(): Omit<StreamParts, "id" | "heldBack" | "onTake" | "wake" | "onReport" | "onChange"> {
    this.#checkUsable();
    const recent = RecentTokens.from(REMEMBERED, this.#recent.end, this.#recent.toArray());
    const { place, capacity, adapter, lastAppend } = this;
    const waiting = this.#queue.view().slice();
    const spoken = this.#spoken.copy();
    const parts = { place, cache: this.cache.fork(), capacity, recent, waiting, lastAppend, spoken };
    return adapter === undefined ? parts : { ...parts, adapter };
  }

  /** Nothing of it runs until `resume`. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  /** Frees its pages. What is under way fails with `error`; idempotent. */
  close(error: MillraceError): void {
    this.#broken ??= error;
    const answer = this.#answer;
    this.#answer = null;
    answer?.listener.fail(error);
    for (const append of this.#appends.splice(0)) append.listener.fail(error);
    this.cache.dispose();
    this.#tellIdle();
  }

  /** In this turn. */
  get pending(): number {
    return Math.min(this.#turn, this.#ready);
  }

  /** Tokens that are to be run, in this turn and later ones. */
  get #ready(): number {
    if (this.#paused || this.#broken) return 0;
    if (this.#wantsLogits) return this.#queue.length;
    const scored = this.#scoredEnd - 1 - this.cache.nextPosition;
    return Math.max(0, scored, this.#queue.length - this.#heldBack);
  }

  get outputs(): Outputs {
    if (this.#scoredEnd > 0) return "all";
    return this.#wantsLogits && this.#queue.length <= this.#turn ? "last" : "none";
  }

  /** Of all that is asked of it, in the order in which it runs. */
  get #standings(): Standing[] {
    const standings = this.#appends.map(({ standing }) => standing);
    return this.#answer ? [...standings, this.#answer.standing] : standings;
  }

  /** Whose tokens are run next. */
  get client(): string | undefined {
    return this.#standings.find(({ client }) => client !== undefined)?.client;
  }

  /** Of what is most urgent: what stands before that must run first. */
  get priority(): number | undefined {
    const priorities = this.#standings.map(({ priority = 0 }) => priority);
    return priorities.length > 0 ? Math.max(...priorities) : undefined;
  }

  get deadline(): number | undefined {
    const deadlines = this.#standings.flatMap(({ deadline }) => deadline ?? []);
    return deadlines.length > 0 ? Math.min(...deadlines) : undefined;
  }

  get phase(): Phase {
    return this.#wantsLogits && this.#queue.length === 1 ? "decode" : "prefill";
  }

  get chunk(): number {
    return this.cache.maxIncoming();
  }

  get cached(): number {
    return this.cache.held;
  }

  get done(): boolean {
    return this.#broken !== null || (this.#answer === null && this.#ready === 0);
  }

  admit(): void {
    this.#turn = this.place.layout.step;
  }

  take(count: number): Int32Array {
    if (this.#answer && Number.isNaN(this.#answer.startedAt)) this.#answer.startedAt = performance.now();
    this.#taken = count;
    this.#turn -= count;
    this.#row = this.cache.nextPosition - (this.#scoredEnd > 0 ? count : 1);
    const tokens = this.#queue.take(count);
    this.#recent.push(tokens);
    const { onTake } = this.#parts;
    if (onTake) {
      const first = this.cache.nextPosition - count;
      onTake(
        Int32Array.from(tokens, (_, i) => first + i),
        tokens,
      );
    }
    return tokens;
  }

  accept(logits: Float32Array, now: number): void {
    const position = this.#row++;
    this.#score(position + 1, logits);
    // What the stream holds back has not run: nothing goes on from here yet.
    if (position === this.cache.nextPosition - 1 && this.#queue.length === 0) this.#say(logits, now);
  }

  #score(position: number, logits: Float32Array): void {
    const append = this.#appends.find(({ from, end }) => position >= from && position < end);
    if (!append?.scores) return;
    const { tokens, logprobs } = append.scores;
    const at = position - append.from;
    logprobs[at] = logProbability(logits, tokens[at]!);
  }

  #say(logits: Float32Array, now: number): void {
    const answer = this.#answer;
    // It was broken off while the step was under way.
    if (!answer) return;
    const { decoder, listener } = answer;
    const { emission, finish } = decoder.accept(logits);
    if (answer.generated++ === 0) answer.firstAt = now;
    answer.lastAt = now;
    this.#taken = 0;
    this.#queue.push([decoder.sampled!]);
    if (emission) {
      answer.credit -= 1;
      listener.emit(emission);
    }
    if (finish) this.#end(finish);
    else if (this.cache.length >= Math.min(this.capacity, MOST_TOKENS)) {
      this.#endShort("cache-full");
    }
  }

  settle(): void {
    this.#taken = 0;
    this.#settleAppends();
    this.#report();
    this.#tellIdle();
  }

  endTurn(): boolean {
    if (this.pending > 0) return false;
    this.#turn = this.place.layout.step;
    return true;
  }

  /** Ends what is too late: an answer with what it has said, an append with what is in. */
  expire(now: number): void {
    const isOver = ({ deadline = Number.POSITIVE_INFINITY }: Standing) => deadline <= now;
    for (const append of this.#appends.filter(({ standing }) => isOver(standing))) {
      this.#takeBack(append, (details) => tooLate("append", append.askedAt, details));
    }
    const answer = this.#answer;
    if (answer && isOver(answer.standing)) {
      if (Number.isNaN(answer.startedAt)) {
        this.#answer = null;
        answer.listener.fail(tooLate("answer", answer.askedAt));
      } else this.#endShort("deadline");
    }
    this.#wake();
  }

  cancel(): void {
    this.breakOff();
  }

  /** The tokens of the step are put back; what appended those that wait fails, and they do not stay, save the first. */
  fail(error: MillraceError): void {
    try {
      const count = this.#taken;
      this.#taken = 0;
      this.#turn = this.place.layout.step;
      if (count > 0) {
        const to = this.cache.nextPosition - count;
        this.#queue.putBack(count);
        this.#recent.truncate(to);
        this.cache.rewind(to);
      }
    } catch (cause) {
      this.close(MillraceError.from(cause));
      return;
    }
    const next = this.cache.nextPosition;
    const answer = this.#answer;
    this.#answer = null;
    const appends = this.#appends.splice(0);
    // One token must wait: else there would be nothing to go on from. What was told to be in stays too.
    const kept = appends.length > 0 ? Math.max(1, appends[0]!.from - next) : 0;
    if (kept > 0) this.#queue.remove(kept, this.#queue.length - kept);
    this.#spoken.truncate(this.length);
    answer?.listener.fail(error);
    for (const { from, end, listener } of appends) {
      const lost = end - Math.max(from, Math.min(end, next + kept));
      listener.fail(
        new MillraceError(error.code, error.message, { ...error.details, taken: end - from - lost }),
      );
    }
    this.#report();
  }

  /** Where the last of what is to be scored ends; 0 where nothing is. */
  get #scoredEnd(): number {
    return this.#appends.findLast(({ scores }) => scores !== null)?.end ?? 0;
  }

  get #wantsLogits(): boolean {
    return this.#answer !== null && this.#answer.credit > 0;
  }

  /** Ends before the decoder has: what it held back is said first. */
  #endShort(finishReason: FinishReason): void {
    const rest = this.#answer?.decoder.flush();
    if (rest) this.#answer?.listener.emit(rest);
    this.#end(finishReason);
  }

  #end(finishReason: FinishReason): void {
    const answer = this.#answer;
    if (!answer) return;
    this.#answer = null;
    if (finishReason === "stop-string") this.#unsay(answer.decoder.unsaid);
    const now = performance.now();
    const startedAt = Number.isNaN(answer.startedAt) ? now : answer.startedAt;
    const firstAt = Number.isNaN(answer.firstAt) ? now : answer.firstAt;
    const lastAt = Number.isNaN(answer.lastAt) ? firstAt : answer.lastAt;
    answer.listener.end({
      finishReason,
      seed: answer.decoder.seed,
      promptTokens: answer.promptTokens,
      cachedTokens: 0,
      generatedTokens: answer.generated,
      queueMs: startedAt - answer.askedAt,
      prefillMs: firstAt - startedAt,
      decodeMs: lastAt - firstAt,
      cache: this.cache.report(),
    });
    this.#report();
  }

  /** Takes the tokens of a stop string, which is no part of the answer, out of the stream where that leaves no trace. */
  #unsay(count: number): void {
    const to = this.length - count;
    const ran = to <= this.cache.nextPosition;
    if (count === 0 || this.#appends.length > 0) return;
    if (ran && (to < 1 || this.#recent.at(to - 1) === undefined)) return;
    if (!ran || this.cache.rewindable(to - 1) === "exact") this.#truncate(to);
  }

  /** Forgets the tokens at `to` and after; the one before waits again, so that there is one to go on from. */
  #truncate(to: number): "exact" | "approximate" {
    const next = this.cache.nextPosition;
    if (to > next) {
      this.#queue.remove(to - next, this.#queue.length - (to - next));
      return "exact";
    }
    const last = to > 0 ? this.#recent.at(to - 1) : undefined;
    const again = last !== undefined && this.cache.rewindable(to - 1) !== "gone";
    const keep = again ? to - 1 : to;
    const left = this.cache.rewindable(keep);
    // Throws where the tokens are gone.
    this.cache.rewind(keep);
    this.#recent.truncate(keep);
    this.#queue.remove(0, this.#queue.length);
    if (again) this.#queue.push([last]);
    return left === "gone" ? "approximate" : left;
  }

  /** An append is in when no more of it waits than may. */
  #settleAppends(): void {
    const next = this.cache.nextPosition;
    for (let append = this.#appends[0]; append !== undefined; append = this.#appends[0]) {
      if (append.end - (append.scores ? 1 : this.#heldBack) > next) break;
      this.#appends.shift();
      append.listener.end();
    }
  }

  #wake(): void {
    if (!this.done) this.#parts.wake(this);
    this.#report();
  }

  #tellIdle(): void {
    if (this.#ready > 0) return;
    for (const tell of this.#idle.splice(0)) tell();
  }

  #report(): void {
    if (!this.#broken) this.#parts.onReport(this.report());
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

/** Of an append's tokens, those that are in the stream. */
type Taken = { readonly tokens: number; readonly taken: number };

const notTaken = (what: string, { tokens, taken }: Taken): MillraceError =>
  new MillraceError("ABORTED", `${what}: ${taken} of its ${tokens} tokens are in, the others are not.`, {
    tokens,
    taken,
  });

function tooLate(what: "answer" | "append", askedAt: number, details?: Taken): MillraceError {
  const waitedMs = Math.round(performance.now() - askedAt);
  const left = details ? `: ${details.taken} of its ${details.tokens} tokens are in, the others are not` : "";
  return new MillraceError(
    "DEADLINE_PASSED",
    `The ${what}'s deadline passed while it waited for its turn, ${waitedMs} ms long${left}. Allow it more time, or let fewer wait.`,
    { waitedMs, ...details },
  );
}
