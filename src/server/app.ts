/** The server as one Hono application: every route, and what every request goes through before and after. */
import { getConnInfo } from "@hono/node-server/conninfo";
import { OpenAPIHono } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import { cors } from "hono/cors";
import { requestId } from "hono/request-id";
import { routePath } from "hono/route";
import type { ServerContext, ServerEnv, ServerRequest } from "./context.js";
import { ApiError, fromZod, toApiError } from "./errors.js";
import { EVERYBODY, newId } from "./identity.js";
import { addBatches } from "./routes/batches.js";
import { addChat } from "./routes/chat.js";
import { addCompletions } from "./routes/completions.js";
import { addEmbeddings } from "./routes/embeddings.js";
import { addFiles, isUpload } from "./routes/files.js";
import { addHealth } from "./routes/health.js";
import { addLive } from "./routes/live.js";
import { addModels } from "./routes/models.js";
import { addPage } from "./routes/page.js";
import { addResponses } from "./routes/responses.js";
import { addSessions } from "./routes/sessions.js";
import { addSocket } from "./routes/socket.js";
import { VERSION } from "./version.js";
import { gone } from "./work.js";

export type ServerApp = OpenAPIHono<ServerEnv>;

/** Paths that answer without a key. */
const OPEN_PATHS: readonly string[] = ["/health", "/openapi.json"];
/** Paths that answer also while the server comes to rest, or has too much to do. */
const WATCHING_PATHS: readonly string[] = [...OPEN_PATHS, "/metrics"];

/** An application that answers with `context`'s models. It listens to nothing: see serve.ts. */
export function createApp(context: ServerContext): ServerApp {
  const app: ServerApp = new OpenAPIHono<ServerEnv>({
    defaultHook: (result) => {
      if (!result.success) throw fromZod(result.error, "data" in result ? result.data : undefined);
    },
  });
  app.onError((error, c) => {
    // Who goes away in the middle of a body breaks its reading: no failure of the server's.
    const failure = c.req.raw.signal.aborted ? gone() : toApiError(error);
    if (failure.status >= 500 && failure.code !== "client_closed") note(c, failure);
    for (const [name, value] of Object.entries(failure.headers)) c.header(name, value);
    return c.json(failure.body, failure.status);
  });
  app.notFound((c) => {
    const failure = new ApiError(404, "unknown_url", `Nothing answers ${c.req.method} ${c.req.path}.`);
    return c.json(failure.body, failure.status);
  });

  addPage(app);
  app.use(requestId({ generator: () => newId("req_"), limitLength: 128 }));
  if (context.origins.length > 0) app.use(crossOrigin(context.origins));
  app.use(asWork(context), knownHost(context), allowed(context), plainBody, limitedBody(context));

  addHealth(app, context);
  addModels(app, context);
  addChat(app, context);
  addCompletions(app, context);
  addResponses(app, context);
  addSessions(app, context);
  addSocket(app, context);
  addFiles(app, context);
  addBatches(app, context);
  addEmbeddings(app, context);
  addLive(app, context);
  addDocument(app);
  return app;

  function note(c: ServerRequest, failure: ApiError): void {
    const { cause } = failure;
    context.logger.error(
      { request: c.get("requestId"), err: cause instanceof Error ? cause : failure },
      "failed",
    );
  }
}

/** Counts, logs and watches over each request. */
function asWork({ works, metrics, logger }: ServerContext): MiddlewareHandler<ServerEnv> {
  return async (c, next) => {
    if (WATCHING_PATHS.includes(c.req.path)) return next();
    const id = c.get("requestId");
    const caller = c.env?.caller;
    const { signal } = c.req.raw;
    const onGone = () => work.abort(gone());
    const work = (caller?.works ?? works).begin(id, ({ ms, notes, failure, reason }) => {
      // The runtime holds on to a request's signal for as long as anything else does: nothing of the work may hang on it.
      signal.removeEventListener("abort", onGone);
      const route = routePath(c, -1);
      const { status } = c.res;
      if (!caller) metrics.request(route, status, ms);
      const ended = failure ?? reason;
      logger[caller ? "debug" : "info"]({
        request: id,
        client: c.get("client"),
        method: c.req.method,
        path: c.req.path,
        status,
        ms: Math.round(ms * 10) / 10,
        ...notes,
        ...(ended ? { ended: ended.code } : {}),
      });
    });
    c.set("work", work);
    signal.addEventListener("abort", onGone, { once: true });
    try {
      await next();
    } finally {
      if (!work.streams) work.end();
    }
  };
}

/**
 * Refuses names that the server does not go by. A page elsewhere can make its own name point at this machine, and would
 * then be of the same origin as the server.
 */
function knownHost({ hosts }: ServerContext): MiddlewareHandler<ServerEnv> {
  return async (c, next) => {
    const host = new URL(c.req.url).hostname;
    if (!c.env?.caller && hosts !== null && !hosts.includes(host)) {
      throw new ApiError(
        403,
        "unknown_host",
        `This server does not go by the name '${host}'; see --allow-host.`,
      );
    }
    await next();
  };
}

/** Bodies are taken as they are: a packed one could be of any size. */
const plainBody: MiddlewareHandler<ServerEnv> = async (c, next) => {
  const encoding = c.req.header("content-encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity") {
    throw new ApiError(
      415,
      "unsupported_encoding",
      `The body comes as '${encoding}'; send it without a Content-Encoding.`,
    );
  }
  await next();
};

function limitedBody({ limits: { bodyBytes } }: ServerContext): MiddlewareHandler<ServerEnv> {
  const limit = bodyLimit({
    maxSize: bodyBytes,
    onError: () => {
      throw new ApiError(413, "body_too_large", `The body of the request has more than ${bodyBytes} bytes.`, {
        details: { limit: bodyBytes },
      });
    },
  });
  // Files have a limit of their own, and are never in memory as a whole.
  return async (c, next) => (isUpload(c) ? next() : limit(c, next));
}

/** Who asks, and whether they may now. */
function allowed({ keys, requestRate, tokenRate }: ServerContext): MiddlewareHandler<ServerEnv> {
  return async (c, next) => {
    if (OPEN_PATHS.includes(c.req.path)) return next();
    const caller = c.env?.caller;
    if (caller) {
      c.set("client", caller.client);
      c.set("owner", caller.owner);
      return next();
    }
    const key = keys?.client(c.req.header("authorization") ?? socketKey(c));
    const client = key ?? addressOf(c);
    c.set("client", client);
    c.set("owner", key ?? EVERYBODY);
    if (c.req.path.startsWith("/v1/")) {
      tokenRate?.check(client);
      requestRate?.check(client);
      requestRate?.use(client, 1);
      for (const limit of [requestRate, tokenRate]) {
        for (const [name, value] of Object.entries(limit?.headers(client) ?? {})) c.header(name, value);
      }
    }
    await next();
  };
}

/** Pages cannot send headers with a WebSocket: they name its key among its protocols, "millrace, key.KEY". */
function socketKey(c: ServerRequest): string | undefined {
  const [, key] = /(?:^|,)\s*key\.([^\s,]+)/.exec(c.req.header("sec-websocket-protocol") ?? "") ?? [];
  return key === undefined ? undefined : `Bearer ${key}`;
}

/** The address at the other end; none where the request came from within. */
function addressOf(c: ServerRequest): string {
  return c.env?.incoming ? (getConnInfo(c).remote.address ?? "unknown") : "local";
}

function crossOrigin(origins: readonly string[]): MiddlewareHandler<ServerEnv> {
  return cors({
    origin: origins.includes("*") ? "*" : [...origins],
    allowHeaders: ["Authorization", "Content-Type", "X-Request-Id"],
    exposeHeaders: [
      "X-Request-Id",
      "Retry-After",
      ...["requests", "tokens"].flatMap((what) => [
        `X-RateLimit-Limit-${what}`,
        `X-RateLimit-Remaining-${what}`,
      ]),
    ],
    maxAge: 600,
  });
}

function addDocument(app: ServerApp): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "key", { type: "http", scheme: "bearer" });
  app.doc31("/openapi.json", {
    openapi: "3.1.0",
    info: {
      title: "Millrace",
      version: VERSION,
      description: "Language models on endless streams in bounded memory.",
    },
    security: [{ key: [] }],
  });
}
