/**
 * A model that is loaded: engine, tokenizer and what is known of both. Turns what callers say (text, conversations,
 * options) into requests of token ids.
 */
import { createScorer } from "../decoding/score.js";
import { MillraceError } from "../errors.js";
import type { Constraint } from "../sampling/grammar/constraint.js";
import type { FormatSpec } from "../sampling/grammar/format.js";
import { Embeddings } from "./embeddings.js";
import type { Engine } from "./engine.js";
import type { Language } from "./language.js";
import { Passing } from "./passing.js";
import {
  type Calls,
  type EmbedEnd,
  type EmbedParameters,
  type GenerateParameters,
  type GenerationEnd,
  type LoadedInfo,
  MAX_UNREAD_PIECES,
  type Prompt,
  type ScoreEnd,
} from "./protocol.js";
import type { RequestListener } from "./request.js";
import type { Asking } from "./sessions/asking.js";
import type { Sessions } from "./sessions/sessions.js";
import { onEngineClock } from "./standing.js";

interface Ending<T> {
  end(value: T): void;
  fail(error: MillraceError): void;
}

export interface LoadedParts {
  readonly engine: Engine;
  readonly sessions: Sessions;
  readonly asking: Asking;
  readonly language: Language;
  readonly info: LoadedInfo;
  /** Most tokens of one request; Infinity where the cache policy takes streams of any length. */
  readonly maxTokens: number;
  readonly dispose: () => Promise<void>;
}

type Conversation = Exclude<Prompt, string | Int32Array>;

export class LoadedModel {
  readonly engine: Engine;
  readonly sessions: Sessions;
  readonly asking: Asking;
  readonly info: LoadedInfo;
  readonly #language: Language;
  readonly #maxTokens: number;
  readonly #dispose: () => Promise<void>;
  readonly #embeddings: Embeddings;
  /** Generations whose format is being compiled, and whether they were cancelled meanwhile. */
  readonly #starting = new Passing<{ cancelled: boolean }>();

  constructor({ engine, sessions, asking, language, info, maxTokens, dispose }: LoadedParts) {
    this.engine = engine;
    this.sessions = sessions;
    this.asking = asking;
    this.info = info;
    this.#language = language;
    this.#maxTokens = maxTokens;
    this.#dispose = dispose;
    this.#embeddings = new Embeddings(engine, { width: info.embeddingWidth, sequences: info.sequences });
  }

  /**
   * Submits a generation: at once, or where it has a format, when that is compiled. Throws INVALID_ARGUMENT for options
   * that are none, UNSUPPORTED_TOKENIZER for text where the file has no tokenizer, BAD_TEMPLATE, INVALID_TOKEN, and
   * PROMPT_TOO_LONG where no token of an answer would fit; rejects as `Language.hold`.
   */
  generate(
    id: number,
    parameters: GenerateParameters,
    listener: Ending<GenerationEnd> & Pick<RequestListener, "emit">,
  ): void | Promise<void> {
    const prompt = this.#language.encode(parameters.prompt);
    const isConversation = typeof parameters.prompt === "object" && "messages" in parameters.prompt;
    const stop = isConversation ? [...parameters.stop, ...this.#language.turnEnds()] : parameters.stop;
    this.#checkRoom(prompt.length);
    const room = this.#maxTokens - prompt.length + 1;
    const maxTokens = parameters.maxTokens ?? (room === Infinity ? this.info.context : room);
    const submit = (constraint?: Constraint) => {
      const whole = { ...parameters, stop, maxTokens };
      const decoder = this.#language.decoder(whole, prompt, undefined, constraint);
      this.engine.submit({
        id,
        prompt,
        decoder,
        // The last token of an answer is never run.
        maxCached: Math.min(prompt.length + maxTokens - 1, this.#maxTokens),
        credit: MAX_UNREAD_PIECES,
        ...this.#adapter(parameters.adapter),
        ...onEngineClock(parameters.standing),
        ...(parameters.prefixScope === undefined ? {} : { prefixScope: parameters.prefixScope }),
        listener: {
          emit: (emission) => listener.emit(emission),
          end: (end) => {
            constraint?.dispose();
            listener.end({ ...end, seed: decoder.seed });
          },
          fail: (error) => {
            constraint?.dispose();
            listener.fail(error);
          },
        },
      });
    };
    return parameters.format ? this.#submitHeld(id, parameters.format, submit) : submit();
  }

  /** Ends generation `id` with "aborted"; unknown ids are those that have ended. */
  cancel(id: number): void {
    const starting = this.#starting.get(id);
    if (starting) starting.cancelled = true;
    else if (!this.#embeddings.cancel(id)) this.engine.cancel(id);
  }

  async #submitHeld(id: number, format: FormatSpec, submit: (constraint: Constraint) => void): Promise<void> {
    const starting = { cancelled: false };
    this.#starting.set(id, starting);
    try {
      const constraint = await this.#language.hold(format);
      try {
        submit(constraint);
      } catch (error) {
        constraint.dispose();
        throw error;
      }
    } finally {
      this.#starting.delete(id);
    }
    if (starting.cancelled) this.engine.cancel(id);
  }

  /**
   * Submits a scoring. Throws INVALID_ARGUMENT for fewer than two tokens, and what `generate` throws.
   */
  score(id: number, parameters: Calls["score"]["parameters"], listener: Ending<ScoreEnd>): void {
    const tokens = this.#language.encode(parameters.text);
    if (tokens.length < 2) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `There are ${tokens.length} tokens to score; at least 2 are needed, since the first has nothing before it.`,
        { got: tokens.length, expected: 2 },
      );
    }
    const prompt = tokens.subarray(0, -1);
    this.#checkRoom(prompt.length);
    const decoder = createScorer(tokens);
    this.engine.submit({
      id,
      prompt,
      decoder,
      maxCached: prompt.length,
      credit: 1,
      ...this.#adapter(parameters.adapter),
      listener: {
        emit: () => {},
        end: ({ cache, prefillMs, decodeMs, finishReason }) => {
          if (finishReason === "aborted") {
            listener.fail(new MillraceError("ABORTED", "The caller's signal ended the scoring."));
          } else listener.end({ tokens, logprobs: decoder.logprobs, cache, ms: prefillMs + decodeMs });
        },
        fail: (error) => listener.fail(error),
      },
    });
  }

  /**
   * Submits a call for embeddings, whose requests have the ids from `id` on. Throws what `score` throws, before any
   * input runs; PROMPT_TOO_LONG says which one it is.
   */
  embed(id: number, parameters: EmbedParameters, listener: Ending<EmbedEnd>): void {
    const { inputs, adapter, standing, ...how } = parameters;
    const encoded = inputs.map((input, index) => {
      const tokens = this.#language.encode(input);
      this.#checkRoom(tokens.length, inputs.length > 1 ? index : null);
      return tokens;
    });
    const standingHere = { ...this.#adapter(adapter), ...onEngineClock(standing) };
    this.#embeddings.start(id, { ...how, inputs: encoded, standing: standingHere }, listener);
  }

  /** Ids of `text`, with the file's BOS and EOS unless `addSpecial` is false. */
  tokenize(
    text: string,
    options: { readonly addSpecial: boolean; readonly parseSpecial: boolean },
  ): Int32Array {
    return this.#language.needTokenizer().encode(text, options);
  }

  detokenize(tokens: ArrayLike<number>): string {
    return this.#language.needTokenizer().decode(tokens);
  }

  /** Models may have more ids than their tokenizers: those stand for nothing. */
  tokenBytes(token: number): Uint8Array {
    const tokenizer = this.#language.needTokenizer();
    return token < tokenizer.vocabularySize ? tokenizer.tokenBytes(token) : new Uint8Array();
  }

  /** The prompt that the model's chat template makes of a conversation. */
  renderChat(conversation: Conversation): string {
    return this.#language.render(conversation);
  }

  /** Frees everything; the engine must be idle. */
  async dispose(): Promise<void> {
    await this.#language.dispose();
    await this.#dispose();
  }

  /** The request's adapter by number. Names were checked where the call was made. */
  #adapter(name: string | undefined): { adapter?: number } {
    return name === undefined ? {} : { adapter: this.info.adapters.indexOf(name) };
  }

  /** `input`: which of several it is, or null. */
  #checkRoom(numTokens: number, input: number | null = null): void {
    if (numTokens <= this.#maxTokens) return;
    const what = input === null ? "The prompt" : `Input ${input}`;
    throw new MillraceError(
      "PROMPT_TOO_LONG",
      `${what} has ${numTokens} tokens and the context holds ${this.#maxTokens}. Shorten it, open the model with ` +
        "a larger context, or choose a cache policy that keeps less, such as window({ tokens }).",
      { tokens: numTokens, context: this.#maxTokens, ...(input === null ? {} : { input }) },
    );
  }
}
