/** A server from models and options: the context with its defaults, and the application on top of it. */
import { type Logger, pino } from "pino";
import type { Answerer } from "../batch/run.js";
import { createApp, type ServerApp } from "./app.js";
import { batchAnswerer } from "./batch-answerer.js";
import { BatchStore } from "./batches.js";
import type { ServerContext } from "./context.js";
import { EVERYBODY } from "./identity.js";
import { KeyRing } from "./keys.js";
import { Metrics } from "./metrics.js";
import { type EngineListener, type ModelToServe, ServedModels } from "./models.js";
import { DEFAULT_LIMITS, type ServerLimits } from "./options.js";
import type { SharePrefixes } from "./prefix-scope.js";
import { RateLimit } from "./rate-limit.js";
import { SessionStore } from "./sessions.js";
import { Works } from "./work.js";

export interface ServerOptions {
  /** Accepted API keys; none: anybody may ask. */
  readonly keys?: readonly string[];
  /**
   * Whose prompts share what they begin with alike: those of one "key", or "all". How soon an answer comes tells what was
   * asked before. Default: "key" where there are several keys, else "all".
   */
  readonly sharePrefixes?: SharePrefixes;
  readonly limits?: Partial<ServerLimits>;
  /** Origins whose pages may ask; "*" is all. Default: none but the server's own. */
  readonly origins?: readonly string[];
  /** Names that the server may be asked by. Default: any. */
  readonly hosts?: readonly string[];
  /** Folder in which sessions are saved. Default: they cannot be. */
  readonly sessionFolder?: string;
  /** Folder in which files and batches are kept. Default: there are none. */
  readonly batchFolder?: string;
  /** Default: nothing is logged. */
  readonly logger?: Logger;
  /** Put prompts into the log too. Default false. */
  readonly logPrompts?: boolean;
}

export interface Server {
  readonly app: ServerApp;
  readonly context: ServerContext;
}

/**
 * The first of `models`, each under a name of its own, also goes by "default". They stay the caller's to close; those that
 * the server has opened again after a crash, it closes itself (`ServedModels.close`).
 */
export function createServer(models: readonly ModelToServe[], options: ServerOptions = {}): Server {
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const { keys = [], origins = [], hosts, sessionFolder, batchFolder, logPrompts = false } = options;
  const logger = options.logger ?? pino({ level: "silent" });
  const { requestsPerMinute, tokensPerMinute } = limits;
  const metrics = new Metrics();
  const works = new Works(limits);
  const sessions = new SessionStore(limits, sessionFolder ?? null);
  const served = new ServedModels(models, watchEngines({ logger, metrics, sessions }), limits.reopenMs);
  metrics.watchModels(served.list);
  metrics.watch("http_requests_open", "Requests under way.", () => works.size);
  metrics.watch("sessions", "Sessions that clients hold.", () => sessions.size);
  const ring = keys.length === 0 ? null : new KeyRing(keys);
  const owners = ring?.clients ?? [EVERYBODY];
  const batches = batchFolder
    ? new BatchStore({
        folder: batchFolder,
        limits,
        logger,
        answerer: answererOf,
        crashes: () => served.list.reduce((sum, { health }) => sum + health.crashes, 0),
        sequences: served.list.reduce((sum, { info }) => sum + info.sequences, 0),
        isOwner: (owner) => owners.includes(owner),
      })
    : null;
  if (batches) metrics.watch("batches", "Batches under way.", () => batches.numOpen);
  const context: ServerContext = {
    models: served,
    keys: ring,
    sharePrefixes: options.sharePrefixes ?? (new Set(keys).size > 1 ? "key" : "all"),
    requestRate: requestsPerMinute === null ? null : new RateLimit("requests", requestsPerMinute),
    tokenRate: tokensPerMinute === null ? null : new RateLimit("tokens", tokensPerMinute),
    works,
    sessions,
    batches,
    metrics,
    logger,
    logPrompts,
    limits,
    origins,
    hosts: hosts ?? null,
  };
  const server: Server = { app: createApp(context), context };
  return server;

  function answererOf(owner: string): Answerer {
    const client = `${owner}'s batches`;
    return batchAnswerer(server, { client, owner, priority: LOWEST });
  }
}

/** Behind all requests that somebody waits for. */
const LOWEST = -100;

/** Logs and counts crashes, and takes note of the sessions that went with them. */
function watchEngines({
  logger,
  metrics,
  sessions,
}: Pick<ServerContext, "logger" | "metrics" | "sessions">): EngineListener {
  return (served) => {
    const { name: model } = served;
    return {
      failed(error, crashed, retryInMs) {
        const lost = crashed ? sessions.lose(served) : 0;
        if (crashed) metrics.crashed(model, lost);
        const notes = { model, retryInMs, ...(lost > 0 ? { sessionsLost: lost } : {}), err: error };
        logger.error(notes, crashed ? "engine crashed" : "engine could not be opened again");
      },
      reopened(ms) {
        metrics.reopened(model);
        logger.warn({ model, ms: Math.round(ms) }, "engine reopened");
      },
    };
  };
}
