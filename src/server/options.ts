/** What a server is told, with its defaults. */

/** Limits of a server. */
export interface ServerLimits {
  /** Most requests under way at once, those that wait included. Default 2048. */
  readonly requests: number;
  /** Longest that one request may take, in milliseconds. Default 10 minutes. */
  readonly requestMs: number;
  /** Longest that a request waits for an engine that is opened again after a crash, in milliseconds. Default 15 seconds. */
  readonly reopenMs: number;
  /** Most bytes of a request's body. Default 16 MiB. */
  readonly bodyBytes: number;
  /** How often the other end of a WebSocket is asked whether it is still there, in milliseconds. Default 30 seconds. */
  readonly pingMs: number;
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
  /** Most bytes of a file. Default 200 MiB. */
  readonly fileBytes: number;
  /** Most files of one client, and most bytes that all of them may have. Default 1000 and 4 GiB. */
  readonly files: number;
  readonly storageBytes: number;
  /** A file is deleted after so long, in seconds, and so is what is known of a batch after its end. Default 30 days. */
  readonly fileSeconds: number;
  /** Most lines of a batch. Default 50,000. */
  readonly batchLines: number;
  /** Most batches of one client that have not come to their end. Default 100. */
  readonly openBatches: number;
  /** Most batches that run at once; others wait for their turn. Default 4. */
  readonly runningBatches: number;
  /** A batch that cannot go on (a full disk, say) tries again after so long, in milliseconds. Default 15 seconds. */
  readonly batchRetryMs: number;
}

export const DEFAULT_LIMITS: ServerLimits = {
  requests: 2048,
  requestMs: 600_000,
  reopenMs: 15_000,
  bodyBytes: 16 * 2 ** 20,
  pingMs: 30_000,
  requestsPerMinute: null,
  tokensPerMinute: null,
  sessions: 64,
  sessionIdleMs: 1_800_000,
  sessionBytes: null,
  sessionDiskBytes: 2 ** 30,
  savedSessions: 100,
  fileBytes: 200 * 2 ** 20,
  files: 1000,
  storageBytes: 4 * 2 ** 30,
  fileSeconds: 30 * 24 * 3600,
  batchLines: 50_000,
  openBatches: 100,
  runningBatches: 4,
  batchRetryMs: 15_000,
};
