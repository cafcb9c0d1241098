/** /v1/sessions: endless streams over HTTP. */
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import {
  formatBytes,
  type Generation,
  type GenerationResult,
  type PolicySpec,
  parseBytes,
  type RecallOptions,
  type Session,
  type SessionInfo,
  type SessionOptions,
} from "../../index.js";
import { Answers, finishOf } from "../answers.js";
import type { ServerContext, ServerEnv } from "../context.js";
import { ApiError } from "../errors.js";
import { DONE, event, eventStream, STREAM_HEADERS } from "../event-stream.js";
import { structureOf, templateMessages } from "../messages.js";
import type { ServerLimits } from "../options.js";
import { answerOptions } from "../sampling.js";
import type { ChatMessages } from "../schemas/chat.js";
import { answer, body, errors, streamed } from "../schemas/common.js";
import * as schemas from "../schemas/sessions.js";
import type { BorrowedSession, HeldSession } from "../sessions.js";
import { standingOf } from "../standing.js";
import { goneSince } from "../usage.js";
import type { Work } from "../work.js";

const id = { params: schemas.sessionId };
const sessionOf = (description: string) => ({ 200: answer(schemas.session, description), ...errors });

const create = createRoute({
  method: "post",
  path: "/v1/sessions",
  summary: "Open a session: one stream without end, in a fixed amount of memory",
  request: body(schemas.newSession),
  responses: sessionOf("The session."),
});
const list = createRoute({
  method: "get",
  path: "/v1/sessions",
  summary: "The caller's sessions",
  responses: { 200: answer(schemas.sessionList, "All of them."), ...errors },
});
const restore = createRoute({
  method: "post",
  path: "/v1/sessions/restore",
  summary: "Open a session that was saved; it goes on exactly as that would have",
  request: body(schemas.restoreRequest),
  responses: sessionOf("The session, under an id of its own."),
});
const listSaved = createRoute({
  method: "get",
  path: "/v1/sessions/saved",
  summary: "What the caller has saved",
  responses: { 200: answer(schemas.savedList, "By name."), ...errors },
});
const forget = createRoute({
  method: "delete",
  path: "/v1/sessions/saved/{name}",
  summary: "Delete what was saved",
  request: { params: z.object({ name: schemas.savedName }) },
  responses: { 200: answer(schemas.deleted, "It is gone."), ...errors },
});
const inspect = createRoute({
  method: "get",
  path: "/v1/sessions/{id}",
  summary: "What a session holds, and what became of every token that it has seen",
  request: id,
  responses: { 200: answer(schemas.inspectedSession, "As of now."), ...errors },
});
const map = createRoute({
  method: "get",
  path: "/v1/sessions/{id}/map",
  summary: "Where the tokens of the stream are, by where they stand in it",
  request: { ...id, query: schemas.mapQuery },
  responses: { 200: answer(schemas.streamMap, "As of now."), ...errors },
});
const remove = createRoute({
  method: "delete",
  path: "/v1/sessions/{id}",
  summary: "Close a session and free its memory",
  request: id,
  responses: { 200: answer(schemas.deleted, "It is gone; forks live on."), ...errors },
});
const append = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/append",
  summary: "Put text, tokens or messages at the end of the stream, also while an answer is under way",
  request: { ...id, ...body(schemas.appendRequest) },
  responses: { 200: answer(schemas.appended, "All of it is in."), ...errors },
});
const generate = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/generate",
  summary: "Answer from where the stream stands",
  request: { ...id, ...body(schemas.generateRequest) },
  responses: { 200: streamed(schemas.sessionAnswer, "The answer, whole or as events."), ...errors },
});
const fork = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/fork",
  summary: "A second session that stands where this one does, and shares its pages and its memory",
  request: id,
  responses: sessionOf("The new session."),
});
const rewind = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/rewind",
  summary: "Forget everything from a position on",
  request: { ...id, ...body(schemas.rewindRequest) },
  responses: { 200: answer(schemas.rewound, "Whether it stands exactly as it did."), ...errors },
});
const recall = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/recall",
  summary: "Bring back from disk what a question is about",
  request: { ...id, ...body(schemas.recallRequest) },
  responses: { 200: answer(schemas.recalled, "What was brought back."), ...errors },
});
const save = createRoute({
  method: "post",
  path: "/v1/sessions/{id}/save",
  summary: "Write the session to a file in the server's folder",
  request: { ...id, ...body(schemas.saveRequest) },
  responses: { 200: answer(schemas.saved, "It is on the disk."), ...errors },
});

type Limits = Pick<ServerLimits, "sessionBytes" | "sessionDiskBytes">;

export function addSessions(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  const { models, sessions, limits } = context;

  app.openapi(create, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const served = await models.ready(request.model, work);
    work.notes.model = served.name;
    const held = await sessions.open(c.get("owner"), served, sessionOptions(request, limits));
    return c.json(sessionBody(held), 200);
  });

  app.openapi(list, (c) =>
    c.json({ object: "list" as const, data: sessions.list(c.get("owner")).map(sessionBody) }, 200),
  );

  app.openapi(restore, async (c) => {
    const { model, name, memory } = c.req.valid("json");
    const allowed = memoryWithin(memory, limits);
    const served = await models.ready(model, c.get("work"));
    const held = await sessions.restore(c.get("owner"), served, name, allowed);
    return c.json(sessionBody(held), 200);
  });

  app.openapi(listSaved, async (c) =>
    c.json({ object: "list" as const, data: await sessions.saved(c.get("owner")) }, 200),
  );

  app.openapi(forget, async (c) => {
    const { name } = c.req.valid("param");
    await sessions.forget(c.get("owner"), name);
    return c.json({ id: name, object: "session.saved", deleted: true as const }, 200);
  });

  app.openapi(inspect, async (c) => {
    const { id } = c.req.valid("param");
    return sessions.use(c.get("owner"), id, async (held) => {
      const { groups, tier } = await held.session.inspect();
      return c.json({ ...sessionBody(held), groups: [...groups], tier }, 200);
    });
  });

  app.openapi(map, async (c) => {
    const { id } = c.req.valid("param");
    return sessions.use(c.get("owner"), id, async ({ session }) => {
      const { seen, width, groups } = await session.map(c.req.valid("query"));
      const byLayer = groups.map(({ lanes, memory, merged, disk, recalled }) => ({
        layers: [...new Set(lanes.map(({ layer }) => layer))],
        memory: [...memory],
        merged: [...merged],
        disk: [...disk],
        recalled: [...recalled],
      }));
      return c.json({ object: "session.map" as const, seen, width, groups: byLayer }, 200);
    });
  });

  app.openapi(remove, async (c) => {
    const { id } = c.req.valid("param");
    await sessions.close(c.get("owner"), id);
    return c.json({ id, object: "session", deleted: true as const }, 200);
  });

  app.openapi(append, async (c) => {
    const { id } = c.req.valid("param");
    const request = c.req.valid("json");
    const work = c.get("work");
    if (context.logPrompts) work.notes.input = request.input;
    return sessions.use(c.get("owner"), id, async ({ session, served }) => {
      const before = session.report;
      const client = c.get("client");
      const tokens = await appendTo(session, request, { work, client });
      context.tokenRate?.use(client, tokens);
      context.metrics.evicted(served.name, goneSince(before, session.report));
      Object.assign(work.notes, { model: served.name, promptTokens: tokens });
      return c.json({ object: "session.appended" as const, tokens, report: session.report }, 200);
    });
  });

  app.openapi(generate, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const held = sessions.borrow(c.get("owner"), c.req.valid("param").id);
    const { session, served } = held;
    let turn: Disposable | null = null;
    try {
      turn = held.takeTurn();
      const who = { work, client: c.get("client") };
      const generation = answerIn(session, request, who);
      const answers = new Answers(context, served, who, [generation], 1, session.report);
      if (request.stream) {
        const events = chunks(answers, held, turn);
        return c.body(await eventStream(work, events), 200, STREAM_HEADERS);
      }
      const [result] = await answers.whole();
      return c.json(answerBody(result!, answers, session), 200);
    } finally {
      // A stream gives both back itself.
      if (!work.streams) {
        turn?.[Symbol.dispose]();
        held[Symbol.dispose]();
      }
    }
  });

  app.openapi(fork, async (c) => {
    const { id } = c.req.valid("param");
    return sessions.use(c.get("owner"), id, async (held) =>
      c.json(sessionBody(await sessions.fork(held)), 200),
    );
  });

  app.openapi(rewind, async (c) => {
    const { id } = c.req.valid("param");
    const { to } = c.req.valid("json");
    return sessions.use(c.get("owner"), id, async ({ session }) => {
      const result = await session.rewind(to);
      return c.json({ object: "session.rewound" as const, result, report: session.report }, 200);
    });
  });

  app.openapi(recall, async (c) => {
    const { id } = c.req.valid("param");
    const { question } = c.req.valid("json");
    return sessions.use(c.get("owner"), id, async ({ session }) => {
      const recalled = await session.recall(question ?? undefined);
      return c.json({ object: "session.recalled" as const, recalled, report: session.report }, 200);
    });
  });

  app.openapi(save, async (c) => {
    const { id } = c.req.valid("param");
    const { name } = c.req.valid("json");
    return sessions.use(c.get("owner"), id, async (held) => {
      const bytes = await sessions.save(held, name);
      return c.json({ object: "session.saved" as const, name, bytes }, 200);
    });
  });
}

/** Throws 400 for more than the server gives one session. */
function sessionOptions(request: z.infer<typeof schemas.newSession>, limits: Limits): SessionOptions {
  const { cache, codec, recall, adapter } = request;
  const memory = memoryWithin(request.memory, limits);
  const given = Object.fromEntries(Object.entries(recall ?? {}).filter(([, value]) => value !== null));
  if (recall) within("recall.disk", parseBytes(recall.disk, "recall.disk"), limits.sessionDiskBytes);
  return {
    ...(memory === null ? {} : { memory }),
    ...(cache || codec
      ? {
          cache: {
            ...(cache ? { policy: cache as unknown as PolicySpec } : {}),
            ...(codec ? { codec } : {}),
          },
        }
      : {}),
    ...(recall ? { recall: given as unknown as RecallOptions } : {}),
    ...(adapter ? { adapter } : {}),
  };
}

/** The memory that was asked for, or what the server gives where none was. */
function memoryWithin(asked: number | string | null | undefined, { sessionBytes }: Limits): number | null {
  if (asked === null || asked === undefined) return sessionBytes;
  const bytes = parseBytes(asked);
  if (sessionBytes !== null) within("memory", bytes, sessionBytes);
  return bytes;
}

function within(param: string, bytes: number, limit: number): void {
  if (bytes <= limit) return;
  throw new ApiError(
    400,
    "limit_exceeded",
    `'${param}' is ${formatBytes(bytes)}; this server gives a session at most ${formatBytes(limit)}.`,
    { param, details: { bytes, limit } },
  );
}

/** Who asks, in which request. */
interface Caller {
  readonly work: Work;
  readonly client: string;
}

/** Resolves with the number of tokens. */
export function appendTo(
  session: Session,
  request: schemas.AppendRequest,
  { work: { signal }, client }: Caller,
): Promise<number> {
  const options = { signal, ...standingOf(request, client) };
  const {
    input,
    tools,
    chat_template_kwargs: variables,
    add_generation_prompt: addGenerationPrompt,
  } = request;
  if (!isConversation(input)) {
    for (const [param, value] of Object.entries({
      tools,
      chat_template_kwargs: variables,
      addGenerationPrompt,
    })) {
      if (value === null || value === undefined) continue;
      throw new ApiError(400, "invalid_value", `'${param}' needs an input of messages.`, { param });
    }
    return session.append(input, options);
  }
  const chat = {
    ...(tools ? { tools } : {}),
    ...(variables ? { variables } : {}),
    ...(typeof addGenerationPrompt === "boolean" ? { addGenerationPrompt } : {}),
  };
  return session.append(templateMessages(input), { ...options, chat });
}

const isConversation = (input: schemas.AppendRequest["input"]): input is ChatMessages =>
  Array.isArray(input) && typeof input[0] === "object";

/** An answer in a session; nothing of it runs yet. Throws 400 for what contradicts itself. */
export function answerIn(
  session: Session,
  request: schemas.GenerateRequest,
  { work, client }: Caller,
): Generation {
  const { max_tokens: maxTokens, resume } = request;
  const asked = { signal: work.signal, ...standingOf(request, client) };
  if (resume) {
    refuseBesideResume(request);
    return session.resume(asked);
  }
  const endless = maxTokens === "inf";
  if (endless && !request.stream) {
    throw new ApiError(400, "invalid_value", "'max_tokens' of inf needs 'stream': true.", {
      param: "max_tokens",
    });
  }
  if (endless) work.withoutEnd();
  return session.generate({
    ...answerOptions(request),
    ...structureOf(request).answer,
    ...(maxTokens ? { maxTokens: maxTokens === "inf" ? Number.POSITIVE_INFINITY : maxTokens } : {}),
    ...asked,
  });
}

/** What may be said of an answer that was asked for long ago. */
const BESIDE_RESUME: readonly string[] = ["resume", "stream", "priority", "deadline"];

function refuseBesideResume(request: schemas.GenerateRequest): void {
  for (const [param, value] of Object.entries(request)) {
    if (value === null || value === undefined || BESIDE_RESUME.includes(param)) continue;
    throw new ApiError(
      400,
      "invalid_value",
      `'${param}' cannot be given with 'resume': the answer goes on as it was asked for. Leave it out, or ask for a new answer.`,
      { param },
    );
  }
}

async function* chunks(
  answers: Answers,
  held: BorrowedSession,
  turn: Disposable,
): AsyncGenerator<string, void> {
  using _held = held;
  using _turn = turn;
  for await (const answer of answers.events()) {
    if (answer.kind === "end") {
      // Who reads of its end may ask for the next one at once.
      turn[Symbol.dispose]();
      yield event({ ...answerBody(answer.result, answers, held.session), text: undefined });
    } else {
      const { text, toolCalls } = answer.piece;
      yield event({ object: "session.piece", text, ...(toolCalls ? { tool_calls: toolCalls } : {}) });
    }
  }
  yield DONE;
}

export function answerBody(
  { text, toolCalls, finishReason, seed }: GenerationResult,
  { usage }: Answers,
  { report }: Session,
) {
  return {
    object: "session.answer" as const,
    text,
    ...(toolCalls?.length ? { tool_calls: [...toolCalls] } : {}),
    finish_reason: finishReason === "deadline" ? finishReason : finishOf(finishReason),
    seed,
    usage: usage.toJSON(),
    report,
  };
}

function sessionBody({ id, created, served, info, session }: HeldSession): z.infer<typeof schemas.session> {
  return {
    id,
    object: "session" as const,
    created,
    model: served.name,
    cache: { ...info.cache },
    recall: info.recall && withoutFolder(info.recall),
    adapter: info.adapter,
    memory_bytes: info.memoryBytes,
    capacity: Number.isFinite(info.capacity) ? info.capacity : null,
    unfinished: session.unfinished,
    report: session.report,
  };
}

/** Where the server keeps its files is its own business. */
function withoutFolder(recall: NonNullable<SessionInfo["recall"]>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(recall).filter(([key]) => key !== "dir"));
}
