/** What a server is told, with its defaults. */

/** Limits of a server. */
export interface ServerLimits {
  /** Most requests under way at once, those that wait included. Default 2048. */
  readonly requests: number;
  /** Longest that one request may take, in milliseconds. Default 10 minutes. */
  readonly requestMs: number;
  /** Most bytes of a request's body. Default 16 MiB. */
  readonly bodyBytes: number;
  /** Most requests of one client in a minute; null (the default): any number. */
  readonly requestsPerMinute: number | null;
  /** Most tokens, of prompts and answers, of one client in a minute; null (the default): any number. */
  readonly tokensPerMinute: number | null;
  /** Most sessions at once. Default 64. */
  readonly sessions: number;
  /** A session that nobody touched for so long is closed, in milliseconds. Default 30 minutes. */
  readonly sessionIdleMs: number;
  /** Most memory that one session may have, and what it gets where it asks for none: bytes; null: as the model's budget allows. */
  readonly sessionBytes: number | null;
  /** Most bytes that one session may put on disk. Default 1 GiB. */
  readonly sessionDiskBytes: number;
  /** Most sessions that one client may have saved. Default 100. */
  readonly savedSessions: number;
}

export const DEFAULT_LIMITS: ServerLimits = {
  requests: 2048,
  requestMs: 600_000,
  bodyBytes: 16 * 2 ** 20,
  requestsPerMinute: null,
  tokensPerMinute: null,
  sessions: 64,
  sessionIdleMs: 1_800_000,
  sessionBytes: null,
  sessionDiskBytes: 2 ** 30,
  savedSessions: 100,
};
