/**
 * Node's HTTP server under the application. What never becomes a request of it (a Host that makes no URL, headers without
 * end, no HTTP at all) is refused in the same shape as all else.
 */
import {
  createServer,
  type Server as HttpServer,
  type IncomingMessage,
  ServerResponse,
  STATUS_CODES,
} from "node:http";
import type { Socket } from "node:net";
import { getRequestListener, RequestError } from "@hono/node-server";
import { type WebSocket, WebSocketServer } from "ws";
import type { ServerApp } from "./app.js";
import type { Upgrade } from "./context.js";
import { ApiError, toApiError } from "./errors.js";

/** What was said last may take so long to be sent, in milliseconds. */
export const LAST_BYTES_MS = 500;

export interface Http {
  readonly http: HttpServer;
  /** WebSockets that are open. */
  readonly sockets: ReadonlySet<WebSocket>;
}

/** A server that answers with `app`; it does not listen yet. WebSockets take messages of up to `messageBytes`. */
export function createHttp(app: ServerApp, messageBytes: number): Http {
  const upgrades = new WeakMap<IncomingMessage, Upgrade>();
  const listener = getRequestListener(
    (request, { incoming, outgoing }) =>
      app.fetch(request, { incoming, outgoing, upgrade: upgrades.get(incoming as IncomingMessage) }),
    { errorHandler: refusal },
  );
  // A missing Host is refused by the listener, as is one that is wrong: Node.js would do so without a word.
  const http = createServer({ requireHostHeader: false }, listener);
  http.on("checkExpectation", (_, outgoing: ServerResponse) => {
    const { status, body } = new ApiError(417, "expectation_failed", "Only Expect: 100-continue is known.");
    outgoing.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  });
  http.on("connect", (_, socket: Socket) => {
    refuse(socket, new ApiError(405, "method_not_allowed", "This server is no proxy: it knows no CONNECT."));
  });

  const answers = new WeakMap<Socket, Set<ServerResponse>>();
  http.on("request", ({ socket }, outgoing) => {
    const open = answers.get(socket) ?? new Set();
    answers.set(socket, open.add(outgoing));
    outgoing.once("close", () => open.delete(outgoing));
  });
  http.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    // Nothing can be said in the middle of an answer.
    const speaks = [...(answers.get(socket) ?? [])].some(({ headersSent }) => headersSent);
    if (error.code === "ECONNRESET" || speaks) socket.destroy();
    else refuse(socket, malformed(error));
  });

  const server = new WebSocketServer({ noServer: true, maxPayload: messageBytes });
  server.on("wsClientError", (error, socket) => {
    const headers = { "Sec-WebSocket-Version": "13" };
    refuse(
      socket as Socket,
      new ApiError(400, "bad_handshake", `No WebSocket comes of this: ${error.message}.`, { headers }),
    );
  });
  http.on("upgrade", (incoming, socket: Socket, head) => {
    const isWebSocket = incoming.headers.upgrade?.toLowerCase() === "websocket";
    if (!isWebSocket || incoming.method !== "GET") return withoutUpgrade(http, incoming, socket, head);
    // As any other request, until a route makes a WebSocket of it.
    socket.on("error", () => socket.destroy());
    const outgoing = new ServerResponse(incoming);
    outgoing.shouldKeepAlive = false;
    outgoing.assignSocket(socket);
    outgoing.once("finish", () => socket.destroySoon());
    upgrades.set(incoming, (headers, opened) => {
      outgoing.detachSocket(socket);
      const add = (lines: string[]) =>
        lines.push(...Object.entries(headers).map(([name, value]) => `${name}: ${value}`));
      server.on("headers", add);
      server.handleUpgrade(incoming, socket, head, opened);
      server.off("headers", add);
    });
    void listener(incoming, outgoing);
  });
  return { http, sockets: server.clients };
}

/**
 * A client may offer another protocol (Java's asks for HTTP/2 with every first request), and a server may leave that aside
 * (RFC 9110, 7.8). Node.js has let go of the connection by then, so it gets it back with the same request, less the offer.
 */
function withoutUpgrade(http: HttpServer, incoming: IncomingMessage, socket: Socket, head: Buffer): void {
  const lines = [`${incoming.method} ${incoming.url} HTTP/${incoming.httpVersion}`];
  for (let i = 0; i < incoming.rawHeaders.length; i += 2) {
    const [name, value] = [incoming.rawHeaders[i]!, incoming.rawHeaders[i + 1]!];
    const kept =
      name.toLowerCase() === "connection" ? value.replace(/\b(?:upgrade|http2-settings)\b/gi, "") : value;
    if (!/^(?:upgrade|http2-settings)$/i.test(name)) lines.push(`${name}: ${kept}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  http.emit("connection", socket);
}

/** What the listener answers for what it cannot hand on. */
function refusal(error: unknown): Response {
  const { status, body } =
    error instanceof RequestError
      ? new ApiError(400, "invalid_url", `The request's Host header and path make no URL: ${error.message}.`)
      : toApiError(error);
  return Response.json(body, { status });
}

/** An error of Node's parser or of its clocks, as a client is told of it. */
function malformed({ code, message }: NodeJS.ErrnoException): ApiError {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return new ApiError(431, "headers_too_large", "The request's path and headers are too large.");
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return new ApiError(413, "body_too_large", "The extensions of the body's chunks are too large.");
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new ApiError(408, "request_timeout", "The request did not arrive as a whole in time.");
    default:
      return new ApiError(400, "malformed_request", `This is no HTTP: ${message}.`);
  }
}

/** The last that is said over a connection. */
function refuse(socket: Socket, { status, headers, body }: ApiError): void {
  // What comes after the first error is not looked at.
  if (!socket.writable) return;
  const text = JSON.stringify(body);
  const head = Object.entries({
    ...headers,
    Connection: "close",
    "Content-Type": "application/json",
    "Content-Length": String(Buffer.byteLength(text)),
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.on("error", () => socket.destroy());
  // A connection that is closed while something still comes is reset, and what was said is lost.
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join("")}\r\n${text}`);
  socket.resume();
  setTimeout(() => socket.destroy(), LAST_BYTES_MS).unref();
}
