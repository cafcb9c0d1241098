/** POST /v1/chat/completions */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { GenerationResult, Piece, ToolCall } from "../../index.js";
import { Answers, finishOf } from "../answers.js";
import type { ServerContext, ServerEnv, ServerRequest } from "../context.js";
import { DONE, event, eventStream, STREAM_HEADERS } from "../event-stream.js";
import { fingerprint, newId, now } from "../identity.js";
import { contentLogprobs } from "../logprobs.js";
import { structureOf, templateMessages } from "../messages.js";
import type { ServedModel } from "../models.js";
import { prefixScope } from "../prefix-scope.js";
import { answerOptions, choiceOptions } from "../sampling.js";
import { type ChatCompletion, type ChatRequest, chatCompletion, chatRequest } from "../schemas/chat.js";
import { body, errors, streamed } from "../schemas/common.js";
import { standingOf } from "../standing.js";

const route = createRoute({
  method: "post",
  path: "/v1/chat/completions",
  summary: "Answer a conversation",
  request: body(chatRequest),
  responses: { 200: streamed(chatCompletion, "The answer, whole or as events."), ...errors },
});

type Choice = ChatCompletion["choices"][number];

export function addChat(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(route, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const served = await context.models.ready(request.model, work);
    if (context.logPrompts) work.notes.messages = request.messages;
    const n = request.n ?? 1;
    const answers = new Answers(
      context,
      served,
      { work, client: c.get("client") },
      generations(context, served, request, n, c),
      n,
    );
    const head = {
      id: newId("chatcmpl-"),
      created: now(),
      model: served.name,
      system_fingerprint: fingerprint(served),
    };
    if (request.stream) {
      const events = chunks(answers, served, head, request, n);
      return c.body(await eventStream(work, events), 200, STREAM_HEADERS);
    }
    const results = await answers.whole();
    const choices = await Promise.all(
      results.map(async (result, index) => ({
        index,
        message: message(result),
        logprobs: request.logprobs
          ? { content: await contentLogprobs(served.vocabulary, result.scores ?? []), refusal: null }
          : null,
        finish_reason: finish(result),
      })),
    );
    const completion: ChatCompletion = {
      ...head,
      object: "chat.completion",
      choices,
      usage: answers.usage.toJSON(),
    };
    return c.json(completion, 200);
  });
}

/** The answers to a conversation; nothing of them runs yet. Throws what the engine refuses at once. */
export function generations(
  context: ServerContext,
  served: ServedModel,
  request: ChatRequest,
  n: number,
  c: ServerRequest,
) {
  const messages = templateMessages(request.messages);
  const { render, answer } = structureOf(request);
  const maxTokens = request.max_completion_tokens ?? request.max_tokens;
  const options = {
    ...answerOptions(request),
    ...answer,
    signal: c.get("work").signal,
    ...standingOf(request, c.get("client")),
    ...prefixScope(context, c.get("owner"), request),
    chat: render,
    ...(maxTokens ? { maxTokens } : {}),
    ...(request.logprobs ? { logprobs: request.top_logprobs ?? 0 } : {}),
    ...(request.adapter ? { adapter: request.adapter } : {}),
  };
  return Array.from({ length: n }, (_, i) =>
    served.model.generate(messages, { ...options, ...choiceOptions(options, i) }),
  );
}

function message({ text, toolCalls = [] }: GenerationResult): Choice["message"] {
  const head = { role: "assistant", refusal: null } as const;
  if (toolCalls.length === 0) return { ...head, content: text };
  return { ...head, content: text === "" ? null : text, tool_calls: toolCalls.map((call) => callBody(call)) };
}

const callBody = ({ name, arguments: text }: ToolCall) => ({
  id: newId("call_"),
  type: "function" as const,
  function: { name, arguments: text },
});

const finish = ({ finishReason, toolCalls = [] }: GenerationResult): Choice["finish_reason"] => {
  const reason = finishOf(finishReason);
  return reason === "stop" && toolCalls.length > 0 ? "tool_calls" : reason;
};

/** The events of a streamed answer. */
async function* chunks(
  answers: Answers,
  served: ServedModel,
  head: Pick<ChatCompletion, "id" | "created" | "model" | "system_fingerprint">,
  request: ChatRequest,
  n: number,
): AsyncGenerator<string, void> {
  const wantsUsage = request.stream_options?.include_usage === true;
  const chunk = (rest: object) =>
    event({ ...head, object: "chat.completion.chunk", ...rest, ...(wantsUsage ? { usage: null } : {}) });
  const choice = (
    index: number,
    delta: object,
    finishReason: string | null = null,
    logprobs: object | null = null,
  ) => chunk({ choices: [{ index, delta, logprobs, finish_reason: finishReason }] });
  const begun = new Array<boolean>(n).fill(false);
  const numCalls = new Array<number>(n).fill(0);
  const begin = (index: number) => {
    if (begun[index]) return "";
    begun[index] = true;
    return choice(index, { role: "assistant", content: "", refusal: null });
  };

  for await (const answer of answers.events()) {
    const { index } = answer;
    if (answer.kind === "end") {
      yield begin(index) + choice(index, {}, finish(answer.result));
      continue;
    }
    const { text, scores, toolCalls = [] } = answer.piece as Piece;
    const logprobs =
      request.logprobs && scores
        ? { content: await contentLogprobs(served.vocabulary, scores), refusal: null }
        : null;
    let events = begin(index);
    if (text !== "" || (logprobs !== null && toolCalls.length === 0)) {
      events += choice(index, { content: text }, null, logprobs);
    }
    for (const call of toolCalls) {
      events += choice(index, { tool_calls: [{ index: numCalls[index]!++, ...callBody(call) }] });
    }
    if (events !== "") yield events;
  }
  if (wantsUsage) {
    yield event({ ...head, object: "chat.completion.chunk", choices: [], usage: answers.usage.toJSON() });
  }
  yield DONE;
}
