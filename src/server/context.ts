/** All that a server is made of: what its routes read. */
import type { HttpBindings } from "@hono/node-server";
import type { Context } from "hono";
import type { Logger } from "pino";
import type { WebSocket } from "ws";
import type { BatchStore } from "./batches.js";
import type { KeyRing } from "./keys.js";
import type { Metrics } from "./metrics.js";
import type { ServedModels } from "./models.js";
import type { ServerLimits } from "./options.js";
import type { SharePrefixes } from "./prefix-scope.js";
import type { RateLimit } from "./rate-limit.js";
import type { SessionStore } from "./sessions.js";
import type { Work, Works } from "./work.js";

export interface ServerContext {
  readonly models: ServedModels;
  /** Null: anybody who can reach the server may ask. */
  readonly keys: KeyRing | null;
  /** Whose prompts share what they begin with alike: those of one key, or all. */
  readonly sharePrefixes: SharePrefixes;
  /** Per client; null: no limit. */
  readonly requestRate: RateLimit | null;
  readonly tokenRate: RateLimit | null;
  readonly works: Works;
  readonly sessions: SessionStore;
  /** Null: no files are kept, and there are no batches. */
  readonly batches: BatchStore | null;
  readonly metrics: Metrics;
  readonly logger: Logger;
  /** Put prompts into the log too. */
  readonly logPrompts: boolean;
  readonly limits: ServerLimits;
  /** Origins whose pages may ask; "*" is all. */
  readonly origins: readonly string[];
  /** Names that the server may be asked by; null: any. Keeps pages from elsewhere away from a server on this machine. */
  readonly hosts: readonly string[] | null;
}

/** Who asks from within the server, in place of an HTTP request's key and address; limits on those do not hold for it. */
export interface InternalCaller {
  readonly client: string;
  readonly owner: string;
  /** Where its requests count as under way. */
  readonly works: Works;
}

/** Makes a WebSocket of a request that asks for one, with `headers` in the answer; calls `opened` at once, or never. */
export type Upgrade = (
  headers: Readonly<Record<string, string>>,
  opened: (socket: WebSocket) => void,
) => void;

/** What the middleware of app.ts puts beside a request. */
export interface ServerEnv {
  Variables: {
    requestId: string;
    /** The key, or the address: whom limits count for. */
    client: string;
    /** The key, or everybody where there are none: whom sessions, files and batches belong to. */
    owner: string;
    work: Work;
  };
  Bindings: Partial<HttpBindings> & {
    readonly caller?: InternalCaller;
    readonly upgrade?: Upgrade | undefined;
  };
}

export type ServerRequest = Context<ServerEnv>;
