/** What the server does at the moment: /v1/live. */
import { events } from "./http.js";

/** Of one model, as of now. */
export interface ModelLoad {
  readonly name: string;
  /** Tokens that were run since the last event, prompts and answers, a second. */
  readonly tokens_per_second: number;
  readonly running: number;
  readonly waiting: number;
  /** Bytes of keys and values: in use by requests and sessions, kept to be used again, and at most. */
  readonly used_bytes: number;
  readonly cached_bytes: number;
  readonly cache_bytes: number;
}

export interface Load {
  /** Milliseconds between two tokens of an answer, of those since the last event; null where there was none. */
  readonly gap_ms: { readonly p50: number; readonly p99: number } | null;
  readonly resident_bytes: number;
  readonly models: readonly ModelLoad[];
}

export const watchLoad = (signal: AbortSignal): AsyncGenerator<Load, void> =>
  events<Load>("v1/live", { signal });
