import type { CacheReport } from "../cache/sequence.js";
import { MillraceError } from "../errors.js";
import type { ChatMessage } from "../tokenizer/chat.js";
import type { Connection } from "./connection.js";
import { type Embedding, type EmbeddingInput, type EmbedOptions, embed, isList } from "./embed.js";
import { Generation, type Question } from "./generation.js";
import { invalid, refuseUnknown } from "./options.js";
import type {
  CallName,
  Calls,
  EngineUsage,
  GenerateParameters,
  ModelInfo,
  RenderOptions,
} from "./protocol.js";
import {
  ANSWER_OPTIONS,
  type AnswerOptions,
  checkedAnswer,
  checkedPrompt,
  checkedTokens,
  checkSignal,
  conversation,
  namedAdapter,
  type PromptInput,
  withTools,
} from "./questions.js";
import { STANDING_OPTIONS, type StandingOptions, standing } from "./standing.js";

/** How one answer is made: what `Model.generate` may be told. */
export interface GenerateOptions extends AnswerOptions, StandingOptions {
  /** One of the adapters that the model was opened with; default: none. */
  readonly adapter?: string;
  /** For conversations: how they are rendered. */
  readonly chat?: RenderOptions;
  /**
   * Whose prompts this one may share its beginning with (see `prefixCache`): those of the same scope, a name of your
   * choice, and no others. How soon an answer comes tells what somebody else has asked before, so give users who must not
   * learn of each other scopes of their own. Default: one scope for all who name none.
   */
  readonly prefixScope?: string;
}

/** What `Model.tokenize` may be told. */
export interface TokenizeOptions {
  /** Add the BOS and EOS tokens that the file asks for. Default true. */
  readonly addSpecial?: boolean;
  /** Take the names of control tokens in the text for those tokens. Default false. */
  readonly parseSpecial?: boolean;
}

/** What `Model.score` may be told. */
export interface ScoreOptions {
  /** One of the adapters that the model was opened with; default: none. */
  readonly adapter?: string;
  /** Ends the scoring with ABORTED. */
  readonly signal?: AbortSignal;
}

/** What `Model.score` finds. */
export interface ScoreResult {
  /** [n] the tokens that were scored. */
  readonly tokens: Int32Array;
  /** [n - 1] natural-log probability of token i + 1 given tokens 0 .. i. */
  readonly logprobs: Float32Array;
  /** exp of minus the mean of `logprobs`. */
  readonly perplexity: number;
  readonly ms: number;
  readonly cache: CacheReport;
}

const GENERATE_OPTIONS: readonly (keyof GenerateOptions)[] = [
  ...ANSWER_OPTIONS,
  ...STANDING_OPTIONS,
  "adapter",
  "chat",
  "prefixScope",
];
const MOST_SCOPE = 256;
function scopeOf(scope: unknown): { prefixScope?: string } {
  if (scope === undefined) return {};
  if (typeof scope === "string" && scope !== "" && scope.length <= MOST_SCOPE) return { prefixScope: scope };
  throw invalid("prefixScope", scope, `a text of 1 to ${MOST_SCOPE} characters`);
}

/** A loaded model. All its methods may be called at once, any number of times; requests share the engine's steps. */
export class Model implements AsyncDisposable {
  /** What was loaded, where it runs and what it takes. */
  readonly info: ModelInfo;
  protected readonly connection: Connection;

  /** Made by `openAs`. */
  constructor(connection: Connection, info: ModelInfo) {
    this.connection = connection;
    this.info = info;
  }

  /**
   * Resolves when the model can no longer be asked, with why: CLOSED after `close`, WORKER_CRASHED where its worker ended by
   * itself. Never rejects.
   */
  get ended(): Promise<MillraceError> {
    return this.connection.ended;
  }

  /**
   * Continues `prompt`: text, token ids (run as they are, no BOS added), or a conversation, which the model's chat
   * template renders. Nothing runs until the generation is iterated or its `result` asked for.
   *
   * Throws INVALID_ARGUMENT for unknown or wrong options and INVALID_TOKEN for wrong ids, both at once; what shows
   * only later ends the iteration: PROMPT_TOO_LONG, BAD_TEMPLATE, UNSUPPORTED_TOKENIZER, BAD_LOGITS, DEADLINE_PASSED,
   * ABORTED, CLOSED, WORKER_CRASHED.
   */
  generate(prompt: PromptInput, options: GenerateOptions = {}): Generation {
    refuseUnknown("generate", options, GENERATE_OPTIONS);
    const { adapter, chat, prefixScope, client: _, priority: __, deadline: ___, ...answer } = options;
    const standingNow = standing(options);
    const { parameters: checked, tools } = checkedAnswer(answer, this.info);
    const parameters: GenerateParameters = {
      ...checked,
      prompt: checkedPrompt(prompt, tools ? withTools(prompt, chat, tools) : chat, this.info.vocabularySize),
      ...namedAdapter(adapter, this.info),
      ...scopeOf(prefixScope),
    };
    const ask: Question["ask"] = (onPiece) =>
      this.connection.call("generate", { ...parameters, standing: standingNow() }, { onPiece });
    const question = { ask, answer: parameters, toolParser: tools?.parser ?? null };
    return new Generation(this.connection, question, answer.signal);
  }

  /**
   * Log-probabilities that the model gives to the tokens of a text or stream, and its perplexity on them. Runs as a
   * prompt in chunks beside whatever else runs; with a policy such as `window` streams may be of any length.
   * Throws INVALID_ARGUMENT for fewer than two tokens, and what `generate` throws.
   */
  async score(
    text: string | readonly number[] | Int32Array,
    options: ScoreOptions = {},
  ): Promise<ScoreResult> {
    refuseUnknown("score", options, ["adapter", "signal"]);
    const { adapter, signal } = options;
    checkSignal(signal);
    if (signal?.aborted) throw new MillraceError("ABORTED", "The caller's signal ended the scoring.");
    const { id, result } = this.connection.call("score", {
      text: typeof text === "string" ? text : checkedTokens(text, this.info.vocabularySize),
      ...namedAdapter(adapter, this.info),
    });
    const cancel = () => this.connection.tell({ type: "cancel", id });
    signal?.addEventListener("abort", cancel);
    try {
      const { tokens, logprobs, ms, cache } = await this.connection.hold(result);
      const sum = logprobs.reduce((total, logprob) => total + logprob, 0);
      return { tokens, logprobs, perplexity: Math.exp(-sum / logprobs.length), ms, cache };
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /**
   * The embedding of a text, or of each of a list of texts: what the model's output matrix would read (the state after the
   * last norm), pooled to one vector. Texts run as prompts do, beside whatever else runs, and leave nothing in the cache.
   *
   * Throws INVALID_ARGUMENT for unknown or wrong options and inputs without tokens; INVALID_TOKEN; PROMPT_TOO_LONG, with
   * the number of tokens and which input it is, before any has run; UNSUPPORTED_TOKENIZER, BAD_LOGITS, DEADLINE_PASSED,
   * ABORTED, CLOSED, WORKER_CRASHED.
   */
  async embed(input: EmbeddingInput, options?: EmbedOptions): Promise<Embedding>;
  async embed(inputs: readonly EmbeddingInput[], options?: EmbedOptions): Promise<Embedding[]>;
  async embed(
    input: EmbeddingInput | readonly EmbeddingInput[],
    options: EmbedOptions = {},
  ): Promise<Embedding | Embedding[]> {
    if (isList(input)) return embed(this.connection, this.info, input, options);
    const [embedding] = await embed(this.connection, this.info, [input], options);
    return embedding!;
  }

  /** Ids of `text`, BOS and EOS added as the file asks. Throws UNSUPPORTED_TOKENIZER where the file has none. */
  async tokenize(text: string, options: TokenizeOptions = {}): Promise<number[]> {
    refuseUnknown("tokenize", options, ["addSpecial", "parseSpecial"]);
    if (typeof text !== "string") throw invalid("text", text, "a string");
    const { addSpecial = true, parseSpecial = false } = options;
    return Array.from(await this.#ask("tokenize", { text, addSpecial, parseSpecial }));
  }

  /** Text of `tokens`, control tokens left out. Throws INVALID_TOKEN, UNSUPPORTED_TOKENIZER. */
  async detokenize(tokens: readonly number[] | Int32Array): Promise<string> {
    return this.#ask("detokenize", { tokens: checkedTokens(tokens, this.info.vocabularySize) });
  }

  /**
   * The exact bytes of text that a token stands for, also where they are no whole character; a control token's are its
   * name. Joined, the bytes of an answer's tokens are its text in UTF-8 (where it stands first in a text, a token of some
   * models loses the space that it begins with). Throws INVALID_TOKEN, UNSUPPORTED_TOKENIZER.
   */
  async tokenBytes(token: number): Promise<Uint8Array> {
    checkedTokens([token], this.info.vocabularySize);
    return this.#ask("tokenBytes", { token });
  }

  /** The prompt that the model's chat template makes of a conversation, ready for an answer. Throws BAD_TEMPLATE. */
  async renderChat(messages: readonly ChatMessage[], options: RenderOptions = {}): Promise<string> {
    return this.#ask("renderChat", conversation(messages, options));
  }

  /** What the engine holds at this moment: pages, requests waiting and running. */
  async usage(): Promise<EngineUsage> {
    return this.#ask("usage", null);
  }

  /**
   * Ends the worker and frees its memory; what is still under way is rejected with CLOSED. A worker that has not
   * answered after `patienceMs` milliseconds (a long step, at most) is ended by force. Idempotent.
   */
  close(patienceMs = 5000): Promise<void> {
    return this.connection.close(patienceMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #ask<N extends CallName>(name: N, parameters: Calls[N]["parameters"]): Promise<Calls[N]["result"]> {
    return this.connection.hold(this.connection.call(name, parameters).result);
  }
}
