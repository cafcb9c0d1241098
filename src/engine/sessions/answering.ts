/** An answer that is sampled from a stream. */
import type { CacheReport } from "../../cache/sequence.js";
import type { Emission, FinishReason } from "../../decoding/contract.js";
import type { PlainDecoder } from "../../decoding/plain.js";
import type { MillraceError } from "../../errors.js";
import type { AnswerParameters } from "../protocol.js";
import type { RequestEnd } from "../request.js";
import { type Standing, tooLate } from "../standing.js";

/** Told during steps and calls; must not call back. Exactly one of `end` and `fail` is called, last. */
export interface AnswerListener {
  emit(emission: Emission): void;
  end(end: RequestEnd & { readonly seed: number }): void;
  fail(error: MillraceError): void;
}

/** An answer in the form that another stream can take up. */
export interface Answer {
  readonly parameters: AnswerParameters & { readonly maxTokens: number };
  readonly decoder: PlainDecoder;
  /** Tokens that waited when it was asked for. */
  readonly promptTokens: number;
}

/** One under way: what it may still say before its reader has read on, and its times. */
export class Answering implements Answer {
  readonly parameters: Answer["parameters"];
  readonly decoder: PlainDecoder;
  readonly promptTokens: number;
  /** Its deadline is on the engine's clock. */
  readonly standing: Standing;
  readonly #listener: AnswerListener;
  #credit: number;
  #generated = 0;
  readonly #askedAt = performance.now();
  #startedAt = Number.NaN;
  #firstAt = Number.NaN;
  #lastAt = Number.NaN;

  /** `credit`: emissions that it may give before `grant` allows more. */
  constructor(answer: Answer, credit: number, listener: AnswerListener, standing: Standing) {
    this.parameters = answer.parameters;
    this.decoder = answer.decoder;
    this.promptTokens = answer.promptTokens;
    this.standing = standing;
    this.#listener = listener;
    this.#credit = credit;
  }

  /** It waits for its reader. */
  get isPaused(): boolean {
    return this.#credit <= 0;
  }

  /** A step for it has run. */
  get hasStarted(): boolean {
    return !Number.isNaN(this.#startedAt);
  }

  grant(emissions: number): void {
    this.#credit += emissions;
  }

  /** A step runs tokens of its stream. */
  start(): void {
    if (!this.hasStarted) this.#startedAt = performance.now();
  }

  /** Samples a token, `decoder.sampled` from then on, and tells what it completes; returns why the answer ends with it, or null. */
  accept(logits: Float32Array, now: number): FinishReason | null {
    const { emission, finish } = this.decoder.accept(logits);
    if (this.#generated++ === 0) this.#firstAt = now;
    this.#lastAt = now;
    if (emission) {
      this.#credit -= 1;
      this.#listener.emit(emission);
    }
    return finish;
  }

  /** Says what the decoder has held back: the answer ends before that has. */
  flush(): void {
    const rest = this.decoder.flush();
    if (rest) this.#listener.emit(rest);
  }

  end(finishReason: FinishReason, cache: CacheReport): void {
    const now = performance.now();
    const startedAt = this.hasStarted ? this.#startedAt : now;
    const firstAt = Number.isNaN(this.#firstAt) ? now : this.#firstAt;
    const lastAt = Number.isNaN(this.#lastAt) ? firstAt : this.#lastAt;
    this.#listener.end({
      finishReason,
      seed: this.decoder.seed,
      promptTokens: this.promptTokens,
      cachedTokens: 0,
      generatedTokens: this.#generated,
      queueMs: startedAt - this.#askedAt,
      prefillMs: firstAt - startedAt,
      decodeMs: lastAt - firstAt,
      cache,
    });
  }

  fail(error: MillraceError): void {
    this.#listener.fail(error);
  }

  /** Fails with DEADLINE_PASSED. */
  expire(): void {
    this.fail(tooLate("answer", this.#askedAt));
  }
}
