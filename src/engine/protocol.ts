/**
 * What the main thread and the engine's worker say to each other: plain objects that survive structured clone.
 * Every call has an id and ends with exactly one `result` or `failed`; generations send `step` messages before it,
 * opening sends `progress`. All that the sequences of one step have to say travels in one message.
 */
import type { BackendName } from "../backends/contract.js";
import type { CodecName } from "../cache/codecs/contract.js";
import type { PolicySpec } from "../cache/policies/resolve.js";
import type { PoolUsage } from "../cache/pool.js";
import type { PrefixUsage } from "../cache/prefix.js";
import type { CacheEvent, CacheReport } from "../cache/sequence.js";
import type { StreamMap } from "../cache/stream-map.js";
import type { Recalled, TierReport } from "../cache/tiers/recall.js";
import type { Emission, FinishReason } from "../decoding/contract.js";
import type { ErrorCode, ErrorDetails } from "../errors.js";
import type { Pooling } from "../models/contract.js";
import type { FormatSpec } from "../sampling/grammar/format.js";
import type { SamplingOptions } from "../sampling/options.js";
import type { StallReport } from "../scheduler/bound-stall.js";
import type { ChatFormat, ChatMessage } from "../tokenizer/chat.js";
import type { ToolFormatName } from "../tokenizer/tools/resolve.js";
import type { CacheSpec } from "./policies.js";
import type { LeaseFromBroker, LeaseToBroker } from "./pool-lease.js";
import type { PrefixStore } from "./prefix-file.js";
import type { RecallSpec } from "./sessions/recall.js";
import type { Standing } from "./standing.js";

export interface OpenParameters {
  /** A file or folder on this machine. */
  readonly path: string;
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly context?: number;
  readonly sequences: number;
  readonly memoryBytes?: number;
  /** Bytes of a memory that other models share; `memoryBytes` is this one's part. Absent: the model has its own. */
  readonly sharedBytes?: number;
  readonly maxStallMs?: number;
  readonly cache: CacheSpec;
  /** Whether requests that begin alike share what they have in common, and where that is kept. Absent: they do not. */
  readonly prefixCache?: boolean | PrefixStore;
  /** Folders of adapters by name. */
  readonly adapters?: Readonly<Record<string, string>>;
}

/** Loading, for progress bars. */
export interface OpenProgress {
  /** "download": from the hub. "load": weights into the backend's memory, repacked for its kernels. */
  readonly phase: "download" | "load";
  readonly loadedBytes: number;
  readonly totalBytes: number;
}

/** What was loaded, where it runs and what it takes. */
export interface ModelInfo {
  readonly path: string;
  readonly format: "gguf" | "safetensors";
  readonly architecture: string;
  readonly numLayers: number;
  /** Elements of a state, and of an embedding. */
  readonly embeddingWidth: number;
  /** How `embed` makes one vector of a text's states unless told otherwise: as the file says, else "last". */
  readonly pooling: Pooling;
  readonly vocabularySize: number;
  /** Tokens that the model was trained for. */
  readonly trainedContext: number;
  /** Most tokens (prompt and answer) that one request may have here; with an evicting policy, that it may hold. */
  readonly context: number;
  /** Most requests that run at once; further ones wait. */
  readonly sequences: number;
  readonly tokenizer: {
    readonly kind: "gguf" | "huggingface" | "none";
    readonly bosId: number | null;
    readonly eosIds: readonly number[];
    /** Where the template of conversations comes from; null where there is no tokenizer. See tokenizer/chat.ts. */
    readonly chatFormat: ChatFormat["kind"] | null;
    /** How the model writes calls of tools, as its template shows; null where there is no tokenizer. */
    readonly toolFormat: ToolFormatName | null;
  };
  readonly backend: {
    readonly name: BackendName;
    readonly description: string;
    readonly threads: number;
    /** Where "auto" passed over the native backend: why, in one line. */
    readonly reason: string | null;
  };
  readonly cache: CacheSpec;
  /** Whether requests that begin alike share what they have in common: asked for, and the cache can. */
  readonly prefixCache: boolean;
  /** Names of the adapters that requests may ask for. */
  readonly adapters: readonly string[];
  readonly memory: {
    readonly weightBytes: number;
    readonly cacheBytes: number;
    readonly scratchBytes: number;
    /** The budget that was asked for, or null. */
    readonly budgetBytes: number | null;
  };
  readonly fileBytes: number;
  /** From the start of the worker until the first request could come. */
  readonly loadMs: number;
}

/** What the worker knows of a model; the time is taken by the caller. */
export type LoadedInfo = Omit<ModelInfo, "loadMs">;

/** How a conversation becomes a prompt. */
export interface RenderOptions {
  /** End with the opening of the assistant's turn. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions that the model may call, as its template expects them. */
  readonly tools?: readonly unknown[];
  /** Other variables that the template reads, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** Text, token ids (run as they are), or a conversation that the model's chat template renders. */
export type Prompt =
  | string
  | Int32Array
  | { readonly messages: readonly ChatMessage[]; readonly options: RenderOptions };

/** How an answer is made. */
export interface AnswerParameters {
  readonly sampling: SamplingOptions;
  /** Absent: as many as the context holds. */
  readonly maxTokens?: number;
  readonly stop: readonly string[];
  readonly ignoreEos: boolean;
  /** What the answer is held to; absent: nothing. */
  readonly format?: FormatSpec;
  /** One of `ModelInfo.adapters`. */
  readonly adapter?: string;
}

export interface GenerateParameters extends AnswerParameters {
  /** Absent: like any other. */
  readonly standing?: Standing;
  /** Absent: that of all who name none. */
  readonly prefixScope?: string;
  readonly prompt: Prompt;
}

export interface GenerationEnd {
  readonly finishReason: FinishReason;
  /** The seed in use: the caller's, or the one that was drawn. */
  readonly seed: number;
  readonly promptTokens: number;
  /** Of these, tokens that another request had run before and that were not run again. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** From admission to the first token. */
  readonly prefillMs: number;
  /** From the first token to the last. */
  readonly decodeMs: number;
  /** Waiting for room before admission. */
  readonly queueMs: number;
  readonly cache: CacheReport;
}

export interface ScoreEnd {
  /** [n] what was scored. */
  readonly tokens: Int32Array;
  /** [n - 1] natural-log probability of token i + 1 given those before it. */
  readonly logprobs: Float32Array;
  readonly cache: CacheReport;
  readonly ms: number;
}

export interface EmbedParameters {
  /** Each is embedded by itself. */
  readonly inputs: readonly (string | Int32Array)[];
  readonly pooling: Pooling;
  readonly dimensions: number;
  readonly normalize: boolean;
  readonly standing: Standing;
  /** One of `ModelInfo.adapters`. */
  readonly adapter?: string;
}

export interface EmbedEnd {
  /** [inputs, dimensions] */
  readonly vectors: Float32Array;
  /** [inputs] tokens of each. */
  readonly numTokens: Int32Array;
  /** By input. */
  readonly caches: readonly CacheReport[];
  readonly ms: number;
}

/** What the engine holds at this moment. */
export interface EngineUsage extends PoolUsage {
  /** Pages that requests under way use; all others are free to be used, those of prefixes kept for later included. */
  readonly used: number;
  readonly free: number;
  /** Requests in the line, and under way. */
  readonly waiting: number;
  readonly running: number;
  /** Tokens that steps have run since the model was opened, of prompts and of answers. */
  readonly ran: number;
  /** How the bound on stalls that the model was opened with is kept; null where it was opened without. */
  readonly stalls: StallReport | null;
  /** Prefixes that requests share; null where they share none. */
  readonly prefix: PrefixUsage | null;
}

/** What became of every token that a session has seen, and what it takes. */
export interface SessionReport extends Omit<CacheReport, "groups"> {
  /** Tokens that were appended or sampled and wait to be run; they are not among `seen`. */
  readonly waiting: number;
}

/** A session to be opened; what is null is chosen for the model and the budget. */
export interface SessionParameters {
  readonly memoryBytes: number | null;
  readonly cache: { readonly policy: PolicySpec | null; readonly codec: CodecName | null };
  /** Null: what the policy drops is gone. */
  readonly recall: RecallSpec | null;
  /** One of `ModelInfo.adapters`; null: none. */
  readonly adapter: string | null;
}

/** A session's report by lane group, and of its disk tier where it has one. */
export interface SessionInspection extends CacheReport {
  readonly tier: TierReport | null;
}

/** What a session was opened with. */
export interface SessionInfo {
  readonly cache: CacheSpec;
  readonly recall: RecallSpec | null;
  /** That its tokens run with, under the name that the model was opened with; null: none. */
  readonly adapter: string | null;
  /** The hard limit on its pages, page tables and attention mass, and those of its forks. */
  readonly memoryBytes: number;
  readonly pageBytes: number;
  /** Most tokens in all; Infinity where the policy lets go of some. */
  readonly capacity: number;
  readonly report: SessionReport;
  /** An answer was under way when it was saved. */
  readonly unfinished: boolean;
}

/** What goes to the end of a session's stream. */
export interface AppendParameters {
  readonly session: number;
  readonly prompt: Prompt;
  readonly standing: Standing;
}

/** Tokens that a session took in, and what its model gave to each. */
export interface Scores {
  /** [n] */
  readonly tokens: Int32Array;
  /** [n] natural log of each token's probability, given all before it; NaN for the stream's first. */
  readonly logprobs: Float32Array;
}

/** Calls that the worker answers: parameters and result of each. */
export interface Calls {
  open: { parameters: OpenParameters; result: LoadedInfo };
  generate: { parameters: GenerateParameters; result: GenerationEnd };
  score: {
    parameters: { readonly text: string | Int32Array; readonly adapter?: string };
    result: ScoreEnd;
  };
  /** The ids from the call's on, one for each input, are its own. */
  embed: { parameters: EmbedParameters; result: EmbedEnd };
  tokenize: {
    parameters: { readonly text: string; readonly addSpecial: boolean; readonly parseSpecial: boolean };
    result: Int32Array;
  };
  detokenize: { parameters: { readonly tokens: Int32Array }; result: string };
  tokenBytes: { parameters: { readonly token: number }; result: Uint8Array };
  renderChat: {
    parameters: { readonly messages: readonly ChatMessage[]; readonly options: RenderOptions };
    result: string;
  };
  usage: { parameters: null; result: EngineUsage };
  /** The call's id is the session's from now on; likewise for `restore` and `fork`. Later calls may come before the answer does. */
  openSession: { parameters: SessionParameters; result: SessionInfo };
  restore: {
    parameters: { readonly path: string; readonly memoryBytes: number | null };
    result: SessionInfo;
  };
  save: { parameters: { readonly session: number; readonly path: string }; result: number };
  fork: { parameters: { readonly session: number }; result: SessionInfo };
  append: { parameters: AppendParameters; result: number };
  appendScored: { parameters: AppendParameters; result: Scores };
  answer: {
    parameters: {
      readonly session: number;
      readonly answer: AnswerParameters | "resume";
      readonly standing: Standing;
    };
    result: GenerationEnd;
  };
  rewind: {
    parameters: { readonly session: number; readonly to: number };
    result: "exact" | "approximate";
  };
  inspect: { parameters: { readonly session: number }; result: SessionInspection };
  map: { parameters: { readonly session: number; readonly columns: number }; result: StreamMap };
  /** Null asks for what was appended last. */
  recall: { parameters: { readonly session: number; readonly question: Prompt | null }; result: Recalled };
  watch: { parameters: { readonly session: number; readonly watched: boolean }; result: null };
  closeSession: { parameters: { readonly session: number }; result: null };
  close: { parameters: null; result: null };
}

export type CallName = keyof Calls;

export type ToWorker =
  | { [N in CallName]: { type: "call"; id: number; name: N; parameters: Calls[N]["parameters"] } }[CallName]
  /** `pieces` of generation `id` have been read by the caller: as many more may be sent. */
  | { readonly type: "read"; readonly id: number; readonly pieces: number }
  /** The caller of `id` lost interest: free what it holds; the call then ends with finish reason "aborted". */
  | { readonly type: "cancel"; readonly id: number }
  | { readonly type: "lease"; readonly message: LeaseFromBroker };

export type FromWorker =
  | { readonly type: "lease"; readonly message: LeaseToBroker }
  | { readonly type: "progress"; readonly id: number; readonly progress: OpenProgress }
  | {
      readonly type: "step";
      readonly pieces: readonly { readonly id: number; readonly piece: Emission }[];
      readonly reports: readonly { readonly id: number; readonly report: SessionReport }[];
      readonly changes: readonly { readonly id: number; readonly change: CacheEvent }[];
    }
  | { readonly type: "result"; readonly id: number; readonly value: Calls[CallName]["result"] }
  | { readonly type: "failed"; readonly id: number; readonly error: ErrorJson };

export interface ErrorJson {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}

/** Pieces that a generation may have sent and its caller not yet read; then it pauses until some are read. */
export const MAX_UNREAD_PIECES = 64;
