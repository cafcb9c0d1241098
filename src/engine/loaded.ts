/**
 * A model that is loaded: engine, tokenizer and what is known of both. Turns what callers say (text, conversations,
 * options) into requests of token ids.
 */
import { createPlain } from "../decoding/plain.js";
import { createScorer } from "../decoding/score.js";
import { MillraceError } from "../errors.js";
import { type Candidates, createCandidates } from "../sampling/candidates.js";
import { createSampler } from "../sampling/sampler.js";
import { createStopMatcher } from "../sampling/stop.js";
import { chatFormat, renderChat } from "../tokenizer/chat.js";
import type { Tokenizer } from "../tokenizer/contract.js";
import { createDetokenizer } from "../tokenizer/detokenizer.js";
import type { Engine } from "./engine.js";
import {
  type GenerateParameters,
  type GenerationEnd,
  type LoadedInfo,
  MAX_UNREAD_PIECES,
  type Prompt,
  type ScoreEnd,
} from "./protocol.js";
import type { RequestListener } from "./request.js";

interface Ending<T> {
  end(value: T): void;
  fail(error: MillraceError): void;
}

export interface LoadedParts {
  readonly engine: Engine;
  /** Where there is none that can be used: what to throw when text is asked for. */
  readonly tokenizer: Tokenizer | MillraceError;
  readonly info: LoadedInfo;
  /** Most tokens of one request; Infinity where the cache policy takes streams of any length. */
  readonly maxTokens: number;
  readonly dispose: () => Promise<void>;
}

type Conversation = Exclude<Prompt, string | Int32Array>;

const NO_END: ReadonlySet<number> = new Set();

export class LoadedModel {
  readonly engine: Engine;
  readonly info: LoadedInfo;
  readonly #tokenizer: Tokenizer | null;
  readonly #noTokenizer: MillraceError | null;
  readonly #maxTokens: number;
  readonly #dispose: () => Promise<void>;
  /** Shared by all samplers: they run one after another. */
  readonly #candidates: Candidates;

  constructor({ engine, tokenizer, info, maxTokens, dispose }: LoadedParts) {
    this.engine = engine;
    this.info = info;
    this.#tokenizer = tokenizer instanceof MillraceError ? null : tokenizer;
    this.#noTokenizer = tokenizer instanceof MillraceError ? tokenizer : null;
    this.#maxTokens = maxTokens;
    this.#dispose = dispose;
    this.#candidates = createCandidates(info.vocabularySize);
  }

  /**
   * Submits a generation. Throws INVALID_ARGUMENT for options that are none, UNSUPPORTED_TOKENIZER for text where the
   * file has no tokenizer, BAD_TEMPLATE, INVALID_TOKEN, and PROMPT_TOO_LONG where no token of an answer would fit.
   */
  generate(
    id: number,
    parameters: GenerateParameters,
    listener: Ending<GenerationEnd> & Pick<RequestListener, "emit">,
  ): void {
    const { sampling, ignoreEos } = parameters;
    const prompt = this.#encode(parameters.prompt);
    const stop = [...parameters.stop, ...this.#turnEnds(parameters.prompt)];
    this.#checkRoom(prompt.length);
    const tokenizer = this.#tokenizer;
    if (stop.length > 0) this.#needTokenizer();
    const sampler = createSampler(sampling, this.info.vocabularySize, this.#candidates);
    const room = this.#maxTokens - prompt.length + 1;
    const maxTokens = parameters.maxTokens ?? (room === Infinity ? this.info.context : room);
    this.engine.submit({
      id,
      prompt,
      decoder: createPlain({
        sampler,
        prompt,
        maxTokens,
        endIds: ignoreEos ? NO_END : (tokenizer?.eosIds ?? NO_END),
        detokenizer: tokenizer && createDetokenizer(tokenizer, { after: prompt }),
        stop: stop.length > 0 ? createStopMatcher(stop) : null,
      }),
      // The last token of an answer is never run.
      maxCached: Math.min(prompt.length + maxTokens - 1, this.#maxTokens),
      credit: MAX_UNREAD_PIECES,
      listener: {
        emit: (emission) => listener.emit(emission),
        end: (end) => listener.end({ ...end, seed: sampler.seed }),
        fail: (error) => listener.fail(error),
      },
    });
  }

  /**
   * Submits a scoring. Throws INVALID_ARGUMENT for fewer than two tokens, and what `generate` throws.
   */
  score(id: number, text: string | Int32Array, listener: Ending<ScoreEnd>): void {
    const tokens = this.#encode(text);
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

  /** Ids of `text`, with the file's BOS and EOS unless `addSpecial` is false. */
  tokenize(
    text: string,
    options: { readonly addSpecial: boolean; readonly parseSpecial: boolean },
  ): Int32Array {
    return this.#needTokenizer().encode(text, options);
  }

  detokenize(tokens: ArrayLike<number>): string {
    return this.#needTokenizer().decode(tokens);
  }

  /** The prompt that the model's chat template makes of a conversation. */
  renderChat({ messages, options }: Conversation): string {
    return renderChat(this.#needTokenizer(), messages, options);
  }

  /** Frees everything; the engine must be idle. */
  dispose(): Promise<void> {
    return this.#dispose();
  }

  #encode(prompt: Prompt): Int32Array {
    if (prompt instanceof Int32Array) return prompt;
    if (typeof prompt === "string") return this.#needTokenizer().encode(prompt);
    // The special tokens, BOS included, stand in the rendered text.
    const text = this.renderChat(prompt);
    return this.#needTokenizer().encode(text, { addSpecial: false, parseSpecial: true });
  }

  /** Stop strings of a conversation whose template has no token that ends a turn. */
  #turnEnds(prompt: Prompt): readonly string[] {
    const isConversation = typeof prompt === "object" && "messages" in prompt;
    return isConversation && this.#tokenizer ? chatFormat(this.#tokenizer).stop : [];
  }

  #needTokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    throw this.#noTokenizer;
  }

  #checkRoom(numTokens: number): void {
    if (numTokens <= this.#maxTokens) return;
    throw new MillraceError(
      "PROMPT_TOO_LONG",
      `The prompt has ${numTokens} tokens and the context holds ${this.#maxTokens}. Shorten it, open the model with ` +
        "a larger context, or choose a cache policy that keeps less, such as window({ tokens }).",
      { tokens: numTokens, context: this.#maxTokens },
    );
  }
}
