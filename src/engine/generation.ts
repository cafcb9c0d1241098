/** One answer, as the caller sees it. */

import type { CacheReport } from "../cache/sequence.js";
import type { Emission, FinishReason, TokenScore } from "../decoding/contract.js";
import { MillraceError } from "../errors.js";
import type { Parsed, ToolCall, ToolParser } from "../tokenizer/tools/contract.js";
import type { Connection } from "./connection.js";
import { type AnswerParameters, type GenerationEnd, MAX_UNREAD_PIECES } from "./protocol.js";

/** A piece of an answer. Text is whole: never half a character, never part of a stop string. */
export interface Piece {
  /** What to print. Empty only where the model has no tokenizer. */
  readonly text: string;
  /** Ids of the tokens that the text came from, usually one. */
  readonly tokens: readonly number[];
  /** Place of the first of these tokens in the answer, from 0. */
  readonly index: number;
  /** One per token; only where `logprobs` was asked for. */
  readonly scores?: readonly TokenScore[];
  /** Calls of tools that became complete with this piece; `text` may then be empty. Only where there are any. */
  readonly toolCalls?: readonly ToolCall[];
}

/**
 * The whole answer. Where `maxTokens` was Infinity and the answer was iterated without `result` having been asked for
 * before, nobody kept it: `text`, `tokens` and `scores` are then empty, and the rest is as always.
 */
export interface GenerationResult {
  readonly text: string;
  /** Generated ids; an end token that stopped the answer is not among them. */
  readonly tokens: readonly number[];
  /** One per token; only where `logprobs` was asked for. */
  readonly scores?: readonly TokenScore[];
  /** Calls that the model made, which are no part of `text`; only where `tools` were given. */
  readonly toolCalls?: readonly ToolCall[];
  readonly finishReason: FinishReason;
  /** The seed in use: give it again, with the same options and backend, for the same answer. */
  readonly seed: number;
  /** `cachedTokens` of the prompt's tokens another request had run before: they were taken over, not run again. */
  readonly usage: {
    readonly promptTokens: number;
    readonly cachedTokens: number;
    readonly generatedTokens: number;
  };
  /** Milliseconds: waiting for room; prompt until the first token; first token until the last. */
  readonly timings: { readonly queueMs: number; readonly prefillMs: number; readonly decodeMs: number };
  /** What the cache did with every token that it saw. */
  readonly cache: CacheReport;
}

/** A generation that has not been asked for yet. */
export interface Question {
  /** Asks the worker; pieces come to `onPiece`. */
  ask(onPiece: (emission: Emission) => void): {
    readonly id: number;
    readonly result: Promise<GenerationEnd>;
  };
  /** How it is made, as far as it is known. */
  readonly answer: Pick<AnswerParameters, "maxTokens"> & {
    readonly sampling: Pick<AnswerParameters["sampling"], "logprobs">;
  };
  /** Takes calls of tools out of the text; null or absent: what it says is text. */
  readonly toolParser?: (() => ToolParser) | null;
}

interface Waiting {
  resolve(result: IteratorResult<Piece, undefined>): void;
  reject(error: MillraceError): void;
}

/**
 * An answer under way: an async iterable of pieces, to be iterated once. Nothing runs until it is iterated or its
 * `result` is asked for.
 *
 *   - A reader that falls behind pauses its own generation, and no other; unread pieces are bounded.
 *   - Pieces that were read are kept for `result` too, except where `maxTokens` is Infinity: an endless stream takes no
 *     more memory the longer it runs, unless `result` is asked for before the first piece is.
 *   - `break` cancels: the pages it held are free for the next request.
 *   - A signal ends the iteration with ABORTED after the pieces that came before.
 *   - Where only `result` is asked for, pieces gather in it.
 */
export class Generation implements AsyncIterableIterator<Piece, undefined>, AsyncDisposable {
  readonly #connection: Connection;
  readonly #question: Question;
  readonly #signal: AbortSignal | undefined;

  #call: { readonly id: number; readonly end: Promise<GenerationEnd> } | null = null;
  /** Somebody iterates: pieces wait for the reader. Until then they only gather in what `result` will hold. */
  #iterated = false;
  #queue: Piece[] = [];
  #waiting: Waiting[] = [];
  /** Pieces read since the worker was last told. */
  #read = 0;
  /** No more pieces will come: "done", or the error that ended it. */
  #ended: "done" | MillraceError | null = null;
  #result: Promise<GenerationResult> | null = null;

  /** Tokens that have come, kept or not. */
  #numTokens = 0;
  /** Pieces gather for `result`. */
  #gathers = true;
  #text = "";
  readonly #tokens: number[] = [];
  readonly #scores: TokenScore[] = [];
  readonly #toolCalls: ToolCall[] = [];
  readonly #toolParser: ToolParser | null;
  /** Tokens whose text the parser of calls still holds, and their scores. */
  #heldTokens: number[] = [];
  #heldScores: TokenScore[] = [];

  /** Made by `Model.generate`, `Session.generate`. */
  constructor(connection: Connection, question: Question, signal: AbortSignal | undefined) {
    this.#connection = connection;
    this.#question = question;
    this.#signal = signal;
    this.#toolParser = question.toolParser?.() ?? null;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next piece. Throws what ended the generation early: ABORTED, PROMPT_TOO_LONG, INVALID_TOKEN, WORKER_CRASHED, CLOSED, ... */
  next(): Promise<IteratorResult<Piece, undefined>> {
    if (!this.#iterated) this.#iterate();
    const piece = this.#queue.shift();
    if (piece) {
      this.#acknowledge();
      return Promise.resolve({ done: false, value: piece });
    }
    const outcome = new Promise<IteratorResult<Piece, undefined>>((resolve, reject) => {
      if (this.#ended) this.#settle(resolve, reject);
      else this.#waiting.push({ resolve, reject });
    });
    return this.#connection.hold(outcome);
  }

  /**
   * Cancels what is still to come; `for await` calls it on `break`. `result` then has finish reason "aborted", or
   * rejects with ABORTED where nothing had begun.
   */
  return(): Promise<IteratorResult<Piece, undefined>> {
    this.#iterated = true;
    this.#queue = [];
    if (this.#call && !this.#ended) this.#connection.tell({ type: "cancel", id: this.#call.id });
    this.#finish("done");
    return Promise.resolve({ done: true, value: undefined });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  /**
   * The whole answer, when it has ended. Rejects with what ended it early (ABORTED for a signal); after `break` it
   * holds what was generated until then. Asking for it starts the generation. To iterate an answer of `maxTokens:
   * Infinity` and have its text and tokens here too, ask before the iteration: later, they are empty.
   */
  get result(): Promise<GenerationResult> {
    this.#result ??= this.#connection.hold(this.#whole());
    return this.#result;
  }

  async #whole(): Promise<GenerationResult> {
    const { end } = this.#start();
    const {
      finishReason,
      seed,
      promptTokens,
      cachedTokens,
      generatedTokens,
      queueMs,
      prefillMs,
      decodeMs,
      cache,
    } = await end;
    return {
      text: this.#text,
      tokens: this.#tokens,
      ...(this.#question.answer.sampling.logprobs === undefined ? {} : { scores: this.#scores }),
      ...(this.#toolParser ? { toolCalls: this.#toolCalls } : {}),
      finishReason,
      seed,
      usage: { promptTokens, cachedTokens, generatedTokens },
      timings: { queueMs, prefillMs, decodeMs },
      cache,
    };
  }

  #start(): { readonly id: number; readonly end: Promise<GenerationEnd> } {
    if (this.#call) return this.#call;
    const signal = this.#signal;
    if (signal?.aborted || this.#ended) {
      this.#call = { id: 0, end: Promise.reject(aborted()) };
      this.#call.end.catch(() => {});
      this.#finish(aborted());
      return this.#call;
    }
    const { id, result } = this.#question.ask((emission) => this.#take(emission));
    let onAbort = () => {};
    const abort = new Promise<never>((_, reject) => {
      onAbort = () => {
        this.#connection.tell({ type: "cancel", id });
        this.#finish(aborted());
        reject(aborted());
      };
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    const end = Promise.race([result.then((end) => this.#flushed(end)), abort]);
    this.#call = { id, end };
    end
      .then(
        () => this.#finish("done"),
        (error: unknown) => this.#finish(MillraceError.from(error)),
      )
      .finally(() => signal?.removeEventListener("abort", onAbort));
    return this.#call;
  }

  #take(emission: Emission): void {
    if (!this.#toolParser) {
      this.#give(emission, NO_CALLS);
      return;
    }
    for (const id of emission.tokens) this.#heldTokens.push(id);
    for (const score of emission.scores ?? []) this.#heldScores.push(score);
    if (!this.#giveParsed(this.#toolParser.push(emission.text)) && !this.#ended) this.#acknowledge();
  }

  /** `end`, after what the parser of calls held back until then. */
  #flushed(end: GenerationEnd): GenerationEnd {
    if (!this.#toolParser || this.#giveParsed(this.#toolParser.flush()) || !this.#gathers) return end;
    // White space around calls is no text, but it was said.
    this.#tokens.push(...this.#heldTokens);
    this.#scores.push(...this.#heldScores);
    return end;
  }

  /** Gives what the parser found, with the tokens since the last; false where that is nothing yet. */
  #giveParsed({ text, calls }: Parsed): boolean {
    if (text === "" && calls.length === 0) return false;
    const tokens = this.#heldTokens;
    const scores = this.#heldScores;
    this.#heldTokens = [];
    this.#heldScores = [];
    this.#give(scores.length > 0 ? { text, tokens, scores } : { text, tokens }, calls);
    return true;
  }

  #give(emission: Emission, calls: readonly ToolCall[]): void {
    const called = calls.length > 0 ? { toolCalls: calls } : {};
    const piece: Piece = { ...emission, ...called, index: this.#numTokens };
    this.#numTokens += emission.tokens.length;
    if (this.#gathers) {
      this.#text += emission.text;
      for (const id of emission.tokens) this.#tokens.push(id);
      for (const score of emission.scores ?? []) this.#scores.push(score);
      this.#toolCalls.push(...calls);
    }
    if (this.#ended) return;
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve({ done: false, value: piece });
    else if (this.#iterated) this.#queue.push(piece);
    if (waiting || !this.#iterated) this.#acknowledge();
  }

  /** What has gathered for `result` before anybody iterated is the first piece. */
  #iterate(): void {
    this.#iterated = true;
    this.#gathers = this.#result !== null || this.#question.answer.maxTokens !== Number.POSITIVE_INFINITY;
    // What ends both early is told to the reader; a result that is not awaited yet shall not end the process.
    this.#result?.catch(() => {});
    this.#start();
    if (this.#tokens.length === 0) return;
    const scores = this.#scores.slice();
    const toolCalls = this.#toolCalls.slice();
    this.#queue.push({
      text: this.#text,
      tokens: this.#tokens.slice(),
      index: 0,
      ...(scores.length > 0 ? { scores } : {}),
      ...(toolCalls.length > 0 ? { toolCalls } : {}),
    });
  }

  #acknowledge(): void {
    if (!this.#call || ++this.#read < MAX_UNREAD_PIECES / 2) return;
    this.#connection.tell({ type: "read", id: this.#call.id, pieces: this.#read });
    this.#read = 0;
  }

  #finish(how: "done" | MillraceError): void {
    if (this.#ended) return;
    this.#ended = how;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { resolve, reject } of waiting) this.#settle(resolve, reject);
  }

  /** One reader learns of the error; those behind it, that there is nothing more. */
  #settle(resolve: Waiting["resolve"], reject: Waiting["reject"]): void {
    const how = this.#ended;
    this.#ended = "done";
    if (how instanceof MillraceError) reject(how);
    else resolve({ done: true, value: undefined });
  }
}

const NO_CALLS: readonly ToolCall[] = [];

function aborted(): MillraceError {
  return new MillraceError("ABORTED", "The caller's signal ended the generation.");
}
