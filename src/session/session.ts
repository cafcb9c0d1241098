/** One endless sequence, as the caller sees it. */
import { resolve } from "node:path";
import type { CacheEvent } from "../cache/sequence.js";
import type { StreamMap } from "../cache/stream-map.js";
import type { Recalled } from "../cache/tiers/recall.js";
import { type Connection, undisturbed } from "../engine/connection.js";
import { Generation, type Question } from "../engine/generation.js";
import { invalid, refuseUnknown } from "../engine/options.js";
import type {
  CallName,
  Calls,
  ModelInfo,
  RenderOptions,
  Scores,
  SessionInfo,
  SessionInspection,
  SessionReport,
} from "../engine/protocol.js";
import {
  ANSWER_OPTIONS,
  type AnswerOptions,
  checkedAnswer,
  checkedPrompt,
  checkSignal,
  type PromptInput,
} from "../engine/questions.js";
import { STANDING_OPTIONS, type StandingOptions, standing } from "../engine/standing.js";
import { MillraceError } from "../errors.js";

/** What `Session.append` may be told. Its `deadline` counts from the call. */
export interface AppendOptions extends StandingOptions {
  /** For conversations: how they are rendered. */
  readonly chat?: RenderOptions;
  /** Takes back what has not been run, and rejects with ABORTED; its details say how many tokens are in. */
  readonly signal?: AbortSignal;
}

/** What `Session.generate` may be told. */
export interface SessionAnswerOptions extends AnswerOptions, StandingOptions {}

/** What `Session.resume` may be told. */
export interface ResumeOptions extends StandingOptions {
  /** Ends the answer with ABORTED, after what came before. */
  readonly signal?: AbortSignal;
}

/** How a session comes to be: the call that opens it, restores it, or forks it. */
export type Opening = { readonly id: number; readonly result: Promise<SessionInfo> };

const NOTHING_SEEN: SessionReport = {
  seen: 0,
  kept: 0,
  merged: 0,
  demoted: 0,
  dropped: 0,
  bytes: 0,
  waiting: 0,
};

/**
 * A sequence that lives in the engine's worker until it is closed: text goes in at any time, answers come out, and
 * neither memory nor time per token grow with what it has seen. Made by `Model.session`, `Model.restore` and `fork`.
 *
 * What is appended and what is sampled stand in one stream, one after the other; the end token of an answer too, but not
 * a stop string. Calls take effect in the order in which they are made. A session that fails to append, or to answer,
 * goes on from where it stood.
 */
export class Session implements AsyncDisposable {
  /** What it was opened with. Rejects with what opening failed for, as every other call then does. */
  readonly opened: Promise<SessionInfo>;
  readonly #connection: Connection;
  readonly #model: ModelInfo;
  readonly #id: number;
  readonly #listeners = new Set<(event: CacheEvent) => void>();
  #report = NOTHING_SEEN;
  #unfinished = false;
  /** What opening failed for. */
  #failure: MillraceError | null = null;
  #closing: Promise<void> | null = null;

  /** Made by `Model.session`. */
  constructor(connection: Connection, model: ModelInfo, { id, result }: Opening) {
    this.#connection = connection;
    this.#model = model;
    this.#id = id;
    connection.listen(id, {
      report: (report) => {
        this.#report = report;
      },
      change: (event) => {
        for (const listener of this.#listeners) undisturbed(() => listener(event));
      },
    });
    this.opened = connection.hold(
      result.then((info) => {
        if (this.#report === NOTHING_SEEN) this.#report = info.report;
        this.#unfinished = info.unfinished;
        return info;
      }),
    );
    this.opened.catch((error: unknown) => {
      this.#failure = MillraceError.from(error);
      connection.listen(id, null);
      // The worker would remember it until it is closed.
      connection.call("closeSession", { session: id }).result.catch(() => {});
    });
  }

  /** As of the last step that it took part in: seen = kept + merged + demoted + dropped. */
  get report(): SessionReport {
    return this.#report;
  }

  /** An answer was under way when it was saved: `resume` goes on with it. Known when `opened` is. */
  get unfinished(): boolean {
    return this.#unfinished;
  }

  /**
   * Puts text, token ids (as they are), or messages (as the model's chat template writes them after those before) at the
   * end of the stream; also while an answer is under way, which goes on from there with the next step. Resolves with the
   * number of tokens when they are in the cache: await it, so that no more than the engine can take piles up.
   *
   * Throws INVALID_ARGUMENT and INVALID_TOKEN at once. Rejects with PROMPT_TOO_LONG where a cache that keeps everything is
   * full, OUT_OF_BUDGET where too much waits already, DEADLINE_PASSED, ABORTED, BAD_TEMPLATE, UNSUPPORTED_TOKENIZER, CLOSED; the session
   * then stands as before, save for what `details.taken` says is in.
   */
  append(input: PromptInput, options: AppendOptions = {}): Promise<number> {
    return this.#append("append", input, options);
  }

  /**
   * As `append`, and tells what the model gave to each of the tokens: perplexity of streams of any length. All of them
   * but the very last are run at once, whatever the session holds back for recall.
   */
  score(input: PromptInput, options: AppendOptions = {}): Promise<Scores> {
    return this.#append("appendScored", input, options);
  }

  /**
   * Answers from where the stream stands; options as for `Model.generate`. One answer at a time: INVALID_ARGUMENT ends the
   * iteration where another is under way or nothing was ever appended, PROMPT_TOO_LONG where the cache is full, and what
   * else ends a generation.
   */
  generate(options: SessionAnswerOptions = {}): Generation {
    refuseUnknown("generate", options, [...ANSWER_OPTIONS, ...STANDING_OPTIONS]);
    const { client: _, priority: __, deadline: ___, ...answer } = options;
    const { parameters, tools } = checkedAnswer(answer, this.#model);
    return this.#answer(parameters, { answer: parameters, toolParser: tools?.parser ?? null }, options);
  }

  /**
   * Goes on with the answer that was under way when the session was saved, to the same tokens as if it never had been.
   * INVALID_ARGUMENT ends the iteration where there is none: see `unfinished`.
   */
  resume(options: ResumeOptions = {}): Generation {
    refuseUnknown("resume", options, ["signal", ...STANDING_OPTIONS]);
    checkSignal(options.signal);
    return this.#answer("resume", { answer: { sampling: {} } }, options);
  }

  /**
   * A second session that stands where this one does. They share pages until either writes to them, and they share this
   * one's memory: rejects with OUT_OF_BUDGET where that does not hold what both may come to keep. An answer under way stays
   * here.
   */
  async fork(): Promise<Session> {
    const opening = this.#call("fork", { session: this.#id });
    const fork = new Session(this.#connection, this.#model, opening);
    await fork.opened;
    return fork;
  }

  /**
   * Forgets everything at position `to` (tokens from the stream's start) and after. Resolves with "exact" where the
   * session then stands as it did, "approximate" where the policy has let go of older tokens since. Rejects with
   * INVALID_ARGUMENT, changing nothing, where it no longer holds the tokens around `to`, or an answer is under way.
   */
  async rewind(to: number): Promise<"exact" | "approximate"> {
    if (!Number.isSafeInteger(to) || to < 0) throw invalid("to", to, "a whole number of at least 0");
    const left = await this.#ask("rewind", { session: this.#id, to });
    this.#unfinished = false;
    return left;
  }

  /**
   * Writes the session to one file, with all that it needs to go on exactly as it would have: also in the middle of an
   * answer. What `path` held before stays until the new file is whole and on the disk, whatever happens. The session stands
   * still in the meantime. Resolves with the file's bytes. Rejects with WRITE_FAILED.
   */
  async save(path: string): Promise<number> {
    if (typeof path !== "string" || path === "" || path.includes("\0")) {
      throw invalid("path", path, "the path of a file");
    }
    return this.#ask("save", { session: this.#id, path: resolve(path) });
  }

  /**
   * Brings back, of what the policy has put on disk, the blocks that `question` (by default, what was appended last) is
   * most likely about; they are attended like what is in memory until the next recall. Resolves with what was brought.
   * Sessions do this by themselves before every answer unless `recall.auto` is false.
   *
   * Rejects with INVALID_ARGUMENT where the session was opened without `recall` or there is no question. Blocks that
   * cannot be read count as dropped, told as a change, and the report's `problem` says why.
   */
  recall(question?: PromptInput): Promise<Recalled> {
    const { vocabularySize } = this.#model;
    const asked = question === undefined ? null : checkedPrompt(question, undefined, vocabularySize);
    return this.#ask("recall", { session: this.#id, question: asked });
  }

  /** The report of this moment, by group of lanes that share a policy, and of the disk tier. */
  inspect(): Promise<SessionInspection> {
    return this.#ask("inspect", { session: this.#id });
  }

  /**
   * Where the tokens of the stream are at this moment: attended, merged, in the tier below, or gone, for each of at most
   * `columns` stretches of equal length (a whole number from 1 to 4096; INVALID_ARGUMENT otherwise). For pictures.
   */
  map({ columns = 128 }: { readonly columns?: number } = {}): Promise<StreamMap> {
    if (!Number.isSafeInteger(columns) || columns < 1 || columns > 4096) {
      return Promise.reject(invalid("columns", columns, "a whole number from 1 to 4096"));
    }
    return this.#ask("map", { session: this.#id, columns });
  }

  /**
   * Calls `listener` for everything that the cache lets go of, moves or brings back, in order, soon after it happened;
   * until the function is called that this returns. What it throws is an uncaught exception of the process, and keeps
   * nothing from anybody.
   */
  on(event: "change", listener: (change: CacheEvent) => void): () => void {
    if (event !== "change") throw invalid("event", event, '"change"');
    if (typeof listener !== "function") throw invalid("listener", listener, "a function");
    if (this.#listeners.size === 0) this.#watch(true);
    this.#listeners.add(listener);
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#watch(false);
    };
  }

  /** Frees its pages; what is under way is rejected with CLOSED. Forks live on. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#ask("closeSession", { session: this.#id })
      .catch(() => {})
      .then(() => this.#connection.listen(this.#id, null));
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #append<N extends "append" | "appendScored">(
    name: N,
    input: PromptInput,
    options: AppendOptions,
  ): Promise<Calls[N]["result"]> {
    refuseUnknown(name === "append" ? "append" : "score", options, ["chat", "signal", ...STANDING_OPTIONS]);
    const { chat, signal } = options;
    checkSignal(signal);
    const standingNow = standing(options);
    const prompt = checkedPrompt(input, chat, this.#model.vocabularySize);
    if (signal?.aborted) {
      const message = "The caller's signal ended the append: none of its tokens are in.";
      return Promise.reject(new MillraceError("ABORTED", message, { taken: 0 }));
    }
    const { id, result } = this.#call(name, { session: this.#id, prompt, standing: standingNow() });
    const cancel = () => this.#connection.tell({ type: "cancel", id });
    signal?.addEventListener("abort", cancel);
    return this.#connection.hold(result.finally(() => signal?.removeEventListener("abort", cancel)));
  }

  #answer(
    answer: Calls["answer"]["parameters"]["answer"],
    known: Omit<Question, "ask">,
    options: ResumeOptions,
  ): Generation {
    const standingNow = standing(options);
    const ask: Question["ask"] = (onPiece) => {
      this.#unfinished = false;
      const parameters = { session: this.#id, answer, standing: standingNow() };
      return this.#call("answer", parameters, { onPiece });
    };
    return new Generation(this.#connection, { ask, ...known }, options.signal);
  }

  #watch(watched: boolean): void {
    this.#ask("watch", { session: this.#id, watched }).catch(() => {});
  }

  #ask<N extends CallName>(name: N, parameters: Calls[N]["parameters"]): Promise<Calls[N]["result"]> {
    return this.#connection.hold(this.#call(name, parameters).result);
  }

  #call<N extends CallName>(
    name: N,
    parameters: Calls[N]["parameters"],
    listeners: Parameters<Connection["call"]>[2] = {},
  ): { readonly id: number; readonly result: Promise<Calls[N]["result"]> } {
    if (this.#failure) return { id: 0, result: Promise.reject(this.#failure) };
    return this.#connection.call(name, parameters, listeners);
  }
}
