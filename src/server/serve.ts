/** Listening: the application on a port, and how it comes to rest. */
import type { AddressInfo } from "node:net";
import { MillraceError } from "../index.js";
import { createHttp, type Http, LAST_BYTES_MS } from "./connections.js";
import type { Server } from "./create.js";

export interface ListenOptions {
  /** Default "127.0.0.1": this machine only. */
  readonly host?: string;
  /** Default 8080; 0: any that is free. */
  readonly port?: number;
}

/** A server that listens. */
export interface Listening {
  /** Where it is reached from this machine: "http://127.0.0.1:8080". */
  readonly url: string;
  readonly port: number;
  /**
   * Takes nothing new, lets what is under way come to its end, for `patienceMs` milliseconds at most, and closes. Resolves
   * with the number of requests that were cut short. Sessions are closed; models are the caller's, but for those that were
   * opened again here. Idempotent.
   */
  close(patienceMs?: number): Promise<number>;
}

const DEFAULT_PORT = 8080;
const DEFAULT_PATIENCE_MS = 30_000;
/** A client may take so long to send its headers, in milliseconds. */
const HEADERS_MS = 20_000;
/**
 * A connection is kept for a client's next request so long, in milliseconds: people read an answer before they ask on, and
 * one that is closed just as the next request comes is an error at the client. Node's own 5 s is too short for both.
 */
const KEEP_MS = 300_000;
/** A connection on which nothing moves is closed so long after a request's own limit, in milliseconds. */
const STALL_MS = 60_000;

/**
 * Starts to listen, and goes on with the batches of the server's folder. Rejects with INVALID_ARGUMENT where the port or
 * the name cannot be had, IN_USE and WRITE_FAILED where the folder cannot be.
 */
export async function listen(
  { app, context }: Server,
  { host = "127.0.0.1", port = DEFAULT_PORT }: ListenOptions = {},
): Promise<Listening> {
  await context.batches?.start();
  const served = createHttp(app, context.limits.bodyBytes);
  const { http } = served;
  http.headersTimeout = HEADERS_MS;
  http.keepAliveTimeout = KEEP_MS;
  http.requestTimeout = context.limits.requestMs;
  http.timeout = Math.min(context.limits.requestMs + STALL_MS, 2 ** 31 - 1);
  await new Promise<void>((resolve, reject) => {
    http.once("error", (cause: NodeJS.ErrnoException) => reject(cannotListen(host, port, cause)));
    http.listen(port, host, resolve);
  });
  const address = http.address() as AddressInfo;
  let closing: Promise<number> | null = null;
  return {
    url: `http://${reachable(address)}:${address.port}`,
    port: address.port,
    close: (patienceMs = DEFAULT_PATIENCE_MS) => {
      closing ??= close(served, context, patienceMs);
      return closing;
    },
  };
}

async function close(
  { http, sockets }: Http,
  context: Server["context"],
  patienceMs: number,
): Promise<number> {
  // Nobody waits for them: the next server goes on.
  const paused = context.batches?.close();
  const drained = context.works.drain(patienceMs);
  const closed = new Promise<void>((resolve) => {
    http.close(() => resolve());
  });
  http.closeIdleConnections();
  const cut = await drained;
  await paused;
  await context.sessions.closeAll();
  await context.models.close();
  // Connections that were answered may still be open for a next request, and WebSockets that nobody closes at the other end.
  setTimeout(() => {
    http.closeAllConnections();
    for (const socket of sockets) socket.terminate();
  }, LAST_BYTES_MS).unref();
  http.closeIdleConnections();
  await closed;
  return cut;
}

/** An address that a person can use; one that means "all of them" cannot be asked. */
function reachable({ address, family }: AddressInfo): string {
  if (address === "::" || address === "0.0.0.0") return "localhost";
  return family === "IPv6" ? `[${address}]` : address;
}

function cannotListen(host: string, port: number, cause: NodeJS.ErrnoException): MillraceError {
  const advice =
    cause.code === "EADDRINUSE"
      ? "Something listens there already; give another --port, or 0 for any that is free."
      : "Give a --host of this machine and a --port that you may use.";
  return new MillraceError(
    "INVALID_ARGUMENT",
    `Cannot listen on ${host}, port ${port} (${cause.code ?? cause.message}). ${advice}`,
    { host, port },
    { cause },
  );
}
