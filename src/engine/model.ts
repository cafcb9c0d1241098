/** The public face: `open` a model, ask it, close it. Everything heavy happens in the engine's worker. */
import type { BackendName } from "../backends/contract.js";
import type { CacheReport } from "../cache/sequence.js";
import { MillraceError } from "../errors.js";
import { DEFAULT_MODEL } from "../formats/boxed.js";
import { resolveModelPath } from "../formats/hub.js";
import type { ChatMessage } from "../tokenizer/chat.js";
import { parseBytes } from "./bytes.js";
import { Connection, type EngineThread, startWorker } from "./connection.js";
import { parseDuration } from "./duration.js";
import { type Embedding, type EmbeddingInput, type EmbedOptions, embed, isList } from "./embed.js";
import { Generation, type Question } from "./generation.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "./options.js";
import { type CacheSpec, cacheSpec } from "./policies.js";
import type { PrefixStore } from "./prefix-file.js";
import type {
  CallName,
  Calls,
  EngineUsage,
  GenerateParameters,
  ModelInfo,
  OpenParameters,
  OpenProgress,
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
import { SharedMemory } from "./shared-memory.js";
import { STANDING_OPTIONS, type StandingOptions, standing } from "./standing.js";

/** How a model is loaded: what `open` may be told. */
export interface OpenOptions {
  /** Where the arithmetic runs. "auto" (the default) takes "native", else "wasm". */
  readonly backend?: BackendName | "auto";
  /** Threads that compute. Default: the machine's cores. */
  readonly threads?: number;
  /** Tokens, prompt and answer, of one request. Default: what the model was trained for, at most 8192. */
  readonly context?: number;
  /** Requests that run at once; further ones wait their turn. Default 4. */
  readonly sequences?: number;
  /**
   * Hard limit on weights, cache and scratch together: bytes, or "2 GiB", "512MB". The cache then takes what the
   * weights leave, up to what `context` and `sequences` can fill. Default: no limit but the machine's memory, and a
   * cache for `sequences` requests of `context` tokens, which the system backs as it fills. Several models may have one
   * limit together: see `SharedMemory`.
   */
  readonly memory?: number | string | SharedMemory;
  /**
   * Longest that an answer under way may wait for its next token because of other requests' prompts: milliseconds, or
   * "200ms". Prompts then run beside it in chunks of what length this allows, by a cost of steps that is measured all the
   * time; `usage` tells how well it is kept, and whether this machine can. Default: no bound, and chunks of fixed length.
   */
  readonly maxStall?: number | string;
  /** How keys and values are kept. Default: `full()` as "f16". */
  readonly cache?: Partial<CacheSpec>;
  /**
   * Whether prompts that begin as earlier ones did (a system prompt, a conversation so far) take over what is still in
   * the cache, instead of being run from the start again. It holds on to nothing that a request needs, but in time all
   * of the cache's memory is in use. Only where the cache keeps every token (`full()`) in every layer; else it has no
   * effect. With a folder, what is in the cache when the model is closed is written there, and taken in again by the next
   * to open the same model with the same cache: what was used last first, up to `bytes` (a number, or "2 GiB"; default 256
   * MiB). With `disk` (bytes likewise), what memory has no room for goes there too, in whole blocks, and comes back when a
   * prompt wants it, also after a restart; only one model may then have the folder open. It holds the prompts themselves.
   * What is damaged there is passed over and replaced. Default true.
   */
  readonly prefixCache?:
    | boolean
    | { readonly folder: string; readonly bytes?: number | string; readonly disk?: number | string };
  /**
   * Adapters (LoRA, PaCA) by a name of your choice: folders in the layout of the PEFT library. Requests name the one
   * that they want; requests with different ones, and without any, run together.
   */
  readonly adapters?: Readonly<Record<string, string>>;
  /** Told as bytes arrive: downloaded, then loaded. */
  readonly onProgress?: (progress: OpenProgress) => void;
  /** Ends the opening with ABORTED; of no effect afterwards. */
  readonly signal?: AbortSignal;
}

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

const OPEN_OPTIONS: readonly (keyof OpenOptions)[] = [
  "backend",
  "threads",
  "context",
  "sequences",
  "memory",
  "maxStall",
  "cache",
  "prefixCache",
  "adapters",
  "onProgress",
  "signal",
];
const GENERATE_OPTIONS: readonly (keyof GenerateOptions)[] = [
  ...ANSWER_OPTIONS,
  ...STANDING_OPTIONS,
  "adapter",
  "chat",
  "prefixScope",
];
const BACKENDS: readonly (BackendName | "auto")[] = ["auto", "native", "wasm", "reference", "null"];
const DEFAULT_SEQUENCES = 4;
const MOST_SCOPE = 256;
const PREFIX_BYTES = 256 * 2 ** 20;

/**
 * Opens a model: a GGUF file, a folder (or `model.safetensors`, or an index) of safetensors, or "hf:owner/repo/file".
 * Where none is named, the one that comes in the box ("boxed:harbour"), which needs no download.
 *
 * Throws INVALID_ARGUMENT for unknown or wrong options; FILE_NOT_FOUND, BAD_FORMAT, UNSUPPORTED_* and MISSING_* for
 * the file; OUT_OF_BUDGET, with what is needed and what there is, before anything is allocated; BACKEND_UNAVAILABLE,
 * SELF_CHECK_FAILED; DOWNLOAD_FAILED; ABORTED; WORKER_CRASHED.
 *
 * The model holds memory until it is closed: use `await using`, or call `close`. While nothing is awaited it does not
 * keep the process alive.
 */
export function open(source: string, options?: OpenOptions): Promise<Model>;
export function open(options?: OpenOptions): Promise<Model>;
export function open(named?: string | OpenOptions, given?: OpenOptions): Promise<Model> {
  return openAs(makeModel, named, given);
}

/** How the model that `open` gives is made of a worker that has loaded it. */
export type MakeModel<M> = (connection: Connection, info: ModelInfo) => M;

const makeModel: MakeModel<Model> = (connection, info) => new Model(connection, info);

/** `open`, for what builds on models. */
export async function openAs<M>(
  make: MakeModel<M>,
  named?: string | OpenOptions,
  given?: OpenOptions,
): Promise<M> {
  const isNamed = typeof named === "string";
  const source = isNamed ? named : DEFAULT_MODEL;
  const options = (isNamed ? given : named) ?? {};
  const parameters = openParameters(source, options);
  const { onProgress, signal } = options;
  const path = await resolveModelPath(source, {
    ...(signal ? { signal } : {}),
    onProgress: ({ received, total }) => {
      onProgress?.({ phase: "download", loadedBytes: received, totalBytes: total });
    },
  });
  return openOn(startWorker(), { ...parameters, path }, options, make);
}

/** `open` on a thread that is there already; it ends with the model, or when opening fails. */
export function openOn(
  thread: EngineThread,
  parameters: OpenParameters,
  options?: Pick<OpenOptions, "memory" | "onProgress" | "signal">,
): Promise<Model>;
export function openOn<M>(
  thread: EngineThread,
  parameters: OpenParameters,
  options: Pick<OpenOptions, "memory" | "onProgress" | "signal">,
  make: MakeModel<M>,
): Promise<M>;
export async function openOn(
  thread: EngineThread,
  parameters: OpenParameters,
  { memory, onProgress, signal }: Pick<OpenOptions, "memory" | "onProgress" | "signal"> = {},
  make: MakeModel<unknown> = makeModel,
): Promise<unknown> {
  const startedAt = performance.now();
  const connection = new Connection(thread, memory instanceof SharedMemory ? memory : undefined);
  let onAbort = () => {};
  try {
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () =>
        reject(new MillraceError("ABORTED", "The caller's signal ended the opening of the model."));
      if (signal?.aborted) onAbort();
      signal?.addEventListener("abort", onAbort);
    });
    const { result } = connection.call("open", parameters, onProgress ? { onProgress } : {});
    const info = await connection.hold(Promise.race([result, aborted]));
    return make(connection, { ...info, loadMs: performance.now() - startedAt });
  } catch (error) {
    await connection.close(0);
    throw error;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** What `open` was given, checked and with defaults. Throws INVALID_ARGUMENT. */
export function openParameters(source: string, options: OpenOptions): OpenParameters {
  refuseUnknown("open", options, OPEN_OPTIONS);
  if (typeof source !== "string" || source === "")
    throw invalid("source", source, "a path or hf:owner/repo/file");
  const threads = wholeNumber("threads", options.threads, 1, 1024);
  const context = wholeNumber("context", options.context, 1);
  if (options.onProgress !== undefined && typeof options.onProgress !== "function") {
    throw invalid("onProgress", options.onProgress, "a function");
  }
  checkSignal(options.signal);
  return {
    path: source,
    backend: oneOf("backend", options.backend, BACKENDS) ?? "auto",
    sequences: wholeNumber("sequences", options.sequences, 1, 256) ?? DEFAULT_SEQUENCES,
    cache: cacheSpec(options.cache),
    prefixCache: prefixCacheOf(options.prefixCache),
    ...(options.adapters === undefined ? {} : { adapters: adapterPaths(options.adapters) }),
    ...(threads === undefined ? {} : { threads }),
    ...(context === undefined ? {} : { context }),
    ...memoryOf(options.memory),
    ...(options.maxStall === undefined ? {} : { maxStallMs: parseDuration(options.maxStall, "maxStall") }),
  };
}

function memoryOf(memory: OpenOptions["memory"]): Pick<OpenParameters, "memoryBytes" | "sharedBytes"> {
  if (memory === undefined) return {};
  if (!(memory instanceof SharedMemory)) return { memoryBytes: parseBytes(memory) };
  return { memoryBytes: memory.partBytes, sharedBytes: memory.totalBytes };
}

function prefixCacheOf(given: OpenOptions["prefixCache"] = true): boolean | PrefixStore {
  if (typeof given === "boolean") return given;
  refuseUnknown("prefixCache", given, ["folder", "bytes", "disk"]);
  const { folder, bytes = PREFIX_BYTES, disk } = given;
  if (typeof folder !== "string" || folder === "") {
    throw invalid("prefixCache.folder", folder, "a folder to keep prefixes in");
  }
  return {
    folder,
    bytes: parseBytes(bytes, "prefixCache.bytes"),
    ...(disk === undefined ? {} : { diskBytes: parseBytes(disk, "prefixCache.disk") }),
  };
}

function adapterPaths(adapters: unknown): Readonly<Record<string, string>> {
  const isRecord = typeof adapters === "object" && adapters !== null && !Array.isArray(adapters);
  if (isRecord && Object.values(adapters).every((path) => typeof path === "string" && path !== "")) {
    return { ...(adapters as Record<string, string>) };
  }
  throw invalid("adapters", adapters, "folders of adapters by name");
}

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

  /** Made by `open`. */
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
