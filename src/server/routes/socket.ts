/**
 * GET /v1/sessions/{id}/socket: a session over one WebSocket, in which text goes in while an answer comes out.
 *
 * Messages are JSON objects with a `type`, and an `id` of the client's choice that comes back with what follows from them:
 *
 *   append    as POST …/append     ->  appended
 *   generate  as POST …/generate   ->  piece, …, answer
 *   cancel    the answer           ->  cancelled, of the answer's id
 *   watch     what the cache does  ->  change, … (and `lost`: how many were not told to a slow reader)
 *
 * or error, with the object that the HTTP API has.
 */
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { WebSocket } from "ws";
import type { Generation } from "../../index.js";
import { Answers } from "../answers.js";
import type { ServerContext, ServerEnv, ServerRequest } from "../context.js";
import { ApiError, fromZod, toApiError } from "../errors.js";
import { errors } from "../schemas/common.js";
import { appendRequest, generateRequest, sessionId } from "../schemas/sessions.js";
import type { BorrowedSession, HeldSession } from "../sessions.js";
import { goneSince } from "../usage.js";
import { gone, type Work } from "../work.js";
import { answerBody, answerIn, appendTo } from "./sessions.js";

const id = z.union([z.string().max(200), z.number()]).optional();
const message = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("append"), id, ...appendRequest.shape }),
  z.strictObject({ type: z.literal("generate"), id, ...generateRequest.omit({ stream: true }).shape }),
  z.strictObject({ type: z.literal("cancel"), id }),
  z.strictObject({ type: z.literal("watch"), id }),
]);

/** For the document alone: a handshake has no body. */
const route = createRoute({
  method: "get",
  path: "/v1/sessions/{id}/socket",
  summary: "A session over a WebSocket: text goes in while an answer comes out",
  description:
    "Every message to the server is a `SocketMessage`. What comes back has the message's `id` and a `type`: `appended`, " +
    "`piece`, `answer`, `cancelled`, `change`, or `error` with the object that all errors have.",
  request: { params: sessionId },
  responses: { 101: { description: "A WebSocket from here on." }, ...errors },
});

type Message = z.infer<typeof message>;
type Named = Message["id"];

/** Appends that wait; then the socket is not read until some are in. */
const MAX_APPENDS = 16;
/** Bytes that wait for a slow reader before changes are no longer told, and no message is read any more. */
const MAX_WAITING_BYTES = 2 ** 20;
/** Codes of closing (RFC 6455, 7.4.1). */
const GOING_AWAY = 1001;
const TRY_AGAIN = 1013;

export function addSocket(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openAPIRegistry.registerPath(route);
  app.openAPIRegistry.register("SocketMessage", message);
  app.get("/v1/sessions/:id/socket", (c) => {
    const { upgrade } = c.env ?? {};
    if (!upgrade) {
      throw new ApiError(426, "upgrade_required", "This is a WebSocket: ask with Upgrade: websocket.", {
        headers: { Upgrade: "websocket" },
      });
    }
    refuseStrangers(c, context.origins);
    const session = { owner: c.get("owner"), id: c.req.param("id") };
    context.sessions.check(session);
    const request = c.get("requestId");
    upgrade({ "X-Request-Id": request }, (socket) => {
      let conversation: Conversation;
      try {
        conversation = new Conversation(context, session, c.get("client"), request, socket);
      } catch (error) {
        socket.on("error", () => {});
        socket.send(JSON.stringify({ type: "error", ...toApiError(error).body }));
        socket.close(TRY_AGAIN);
        return;
      }
      for (const sign of ["ping", "pong"]) socket.on(sign, () => conversation.hear());
      socket.on("message", (data, isBinary) => conversation.take(isBinary ? null : String(data)));
      socket.on("close", () => conversation.close());
      socket.on("error", () => conversation.close());
    });
    return c.body(null);
  });
}

/** Browsers let any page open a socket to anywhere: unlike for requests, it is up to the server to refuse. */
function refuseStrangers(c: ServerRequest, origins: readonly string[]): void {
  const origin = c.req.header("origin");
  if (origin === undefined || origins.includes("*") || origins.includes(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === new URL(c.req.url).host) return;
  throw new ApiError(403, "unknown_origin", "Pages of this origin may not ask; see --cors.");
}

/** What goes on over one socket. */
class Conversation {
  readonly #context: ServerContext;
  readonly #held: BorrowedSession;
  readonly #client: string;
  readonly #socket: WebSocket;
  readonly #work: Work;
  #appends = 0;
  #answer: { readonly generation: Generation; cancelled: boolean } | null = null;
  #unwatch: (() => void) | null = null;
  #lost = 0;
  readonly #heart: NodeJS.Timeout;
  /** The other end was asked whether it is still there, and has not been heard of since. */
  #asked = false;

  constructor(
    context: ServerContext,
    session: Pick<HeldSession, "owner" | "id">,
    client: string,
    requestId: string,
    socket: WebSocket,
  ) {
    this.#context = context;
    this.#client = client;
    this.#socket = socket;
    this.#work = context.works.begin(requestId, () => socket.close(GOING_AWAY));
    this.#held = context.sessions.borrow(session.owner, session.id);
    this.#work.withoutEnd();
    this.#work.stream();
    this.#work.signal.addEventListener("abort", () => socket.close(GOING_AWAY));
    context.works.onDrain(this.#work, () => this.#rest());
    this.#heart = setInterval(() => this.#ask(), context.limits.pingMs).unref();
  }

  /** The other end is still there. */
  hear(): void {
    this.#asked = false;
    this.#throttle();
  }

  /** One message of the client; null: a binary one. */
  take(text: string | null): void {
    let named: Named;
    this.hear();
    try {
      const given = parsed(text);
      named = idOf(given);
      const read = message.safeParse(given);
      if (!read.success) throw fromZod(read.error, given);
      this.#context.requestRate?.check(this.#client);
      this.#context.requestRate?.use(this.#client, 1);
      this.#context.tokenRate?.check(this.#client);
      this.#context.sessions.check(this.#held);
      this.#do(read.data).catch((error: unknown) => this.#fail(named, error));
    } catch (error) {
      this.#fail(named, error);
    }
  }

  /** The other end is gone. */
  close(): void {
    clearInterval(this.#heart);
    this.#unwatch?.();
    this.#work.abort(gone());
    this.#work.end(this.#work.reason);
    this.#held[Symbol.dispose]();
  }

  async #do(asked: Message): Promise<void> {
    switch (asked.type) {
      case "append":
        return this.#append(asked);
      case "generate":
        return this.#generate(asked);
      case "cancel":
        if (!this.#answer) throw new ApiError(409, "nothing_to_cancel", "No answer is under way.");
        this.#answer.cancelled = true;
        await this.#answer.generation.return();
        return;
      case "watch":
        return this.#watch();
      default:
        asked satisfies never;
    }
  }

  async #append({ type: _, id, ...request }: Extract<Message, { type: "append" }>): Promise<void> {
    const { session, served } = this.#held;
    this.#appends++;
    this.#throttle();
    try {
      const before = session.report;
      const who = { work: this.#work, client: this.#client };
      const tokens = await appendTo(session, request, who);
      this.#context.tokenRate?.use(this.#client, tokens);
      this.#context.metrics.evicted(served.name, goneSince(before, session.report));
      await this.#say({ type: "appended", id, tokens, report: session.report });
    } finally {
      this.#appends--;
      this.#throttle();
      this.#rest();
    }
  }

  async #generate({ type: _, id, ...request }: Extract<Message, { type: "generate" }>): Promise<void> {
    const { session, served } = this.#held;
    using turn = this.#held.takeTurn();
    const who = { work: this.#work, client: this.#client };
    const generation = answerIn(session, { ...request, stream: true }, who);
    const answer = { generation, cancelled: false };
    this.#answer = answer;
    // Who reads of its end may ask for the next one at once.
    const ended = () => {
      turn[Symbol.dispose]();
      if (this.#answer === answer) this.#answer = null;
    };
    const answers = new Answers(this.#context, served, who, [generation], 1, session.report);
    try {
      for await (const event of answers.events()) {
        if (answer.cancelled) break;
        if (event.kind === "piece") {
          const { text, toolCalls } = event.piece;
          await this.#say({ type: "piece", id, text, ...(toolCalls ? { tool_calls: toolCalls } : {}) });
        } else {
          const { object: __, text: ___, ...rest } = answerBody(event.result, answers, session);
          ended();
          await this.#say({ type: "answer", id, ...rest });
        }
      }
      if (answer.cancelled) {
        ended();
        await this.#say({ type: "cancelled", id, report: session.report });
      }
    } finally {
      ended();
      this.#rest();
    }
  }

  #watch(): void {
    this.#unwatch ??= this.#held.session.on("change", (change) => {
      if (this.#socket.bufferedAmount > MAX_WAITING_BYTES) {
        this.#lost++;
        return;
      }
      const lost = this.#lost > 0 ? { lost: this.#lost } : {};
      this.#lost = 0;
      void this.#say({ type: "change", change, report: this.#held.session.report, ...lost });
    });
  }

  /** Closes the socket where the server is shutting down and nothing is under way. */
  #rest(): void {
    if (!this.#context.works.draining || this.#answer || this.#appends > 0) return;
    // Its end closes the socket; nobody waits until the other end has, too.
    this.#work.end();
  }

  #fail(id: Named, error: unknown): void {
    void this.#say({ type: "error", id, ...(this.#work.reason ?? toApiError(error)).body });
  }

  /** Resolves when it has left for the other end, or never will. */
  #say(what: object): Promise<void> {
    return new Promise((resolve) => {
      this.#socket.send(JSON.stringify(what), (error) => {
        if (!error) this.hear();
        resolve();
      });
      this.#throttle();
    });
  }

  /** Reads no message while there is enough to do, or too much that the other end does not take: it could go on for ever. */
  #throttle(): void {
    const isFull = this.#appends >= MAX_APPENDS || this.#socket.bufferedAmount > MAX_WAITING_BYTES;
    if (isFull && !this.#socket.isPaused) this.#socket.pause();
    else if (!isFull && this.#socket.isPaused) this.#socket.resume();
  }

  /** Lets go of a socket whose other end went without a word, or takes nothing: it would keep the session for ever. */
  #ask(): void {
    // While appends wait, nothing can be heard.
    if (this.#asked && this.#appends < MAX_APPENDS) {
      this.#socket.terminate();
      return;
    }
    this.#asked = true;
    this.#socket.ping();
  }
}

function parsed(text: string | null): unknown {
  if (text === null) throw new ApiError(400, "invalid_json", "The message is binary; send JSON text.");
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(400, "invalid_json", "The message is not valid JSON text.");
  }
}

const idOf = (given: unknown): Named => {
  const named = (given as { id?: unknown } | null)?.id;
  return typeof named === "string" || typeof named === "number" ? named : undefined;
};
