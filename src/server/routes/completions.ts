/** POST /v1/completions */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { GenerationResult } from "../../index.js";
import { Answers, finishOf } from "../answers.js";
import type { ServerContext, ServerEnv, ServerRequest } from "../context.js";
import { ApiError } from "../errors.js";
import { DONE, event, eventStream, STREAM_HEADERS } from "../event-stream.js";
import { fingerprint, newId, now } from "../identity.js";
import { completionLogprobs } from "../logprobs.js";
import type { ServedModel } from "../models.js";
import { prefixScope } from "../prefix-scope.js";
import { answerOptions, choiceOptions } from "../sampling.js";
import { body, errors, MAX_CHOICES, streamed } from "../schemas/common.js";
import { type CompletionRequest, completion, completionRequest } from "../schemas/completions.js";
import { standingOf } from "../standing.js";

const route = createRoute({
  method: "post",
  path: "/v1/completions",
  summary: "Continue a text",
  request: body(completionRequest),
  responses: { 200: streamed(completion, "What follows, whole or as events."), ...errors },
});

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

export function addCompletions(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(route, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const served = await context.models.ready(request.model, work);
    if (context.logPrompts) work.notes.prompt = request.prompt;
    const prompts = promptsOf(request);
    const n = request.n ?? 1;
    const echoes = request.echo ? prompts.map(echoOf) : null;
    const echo = (index: number) => echoes?.[Math.floor(index / n)] ?? "";
    const answers = new Answers(
      context,
      served,
      { work, client: c.get("client") },
      generations(context, served, request, prompts, n, c),
      n,
    );
    const head = {
      id: newId("cmpl-"),
      object: "text_completion" as const,
      created: now(),
      model: served.name,
      system_fingerprint: fingerprint(served),
    };
    if (request.stream) {
      const events = chunks(answers, served, head, request, echo);
      return c.body(await eventStream(work, events), 200, STREAM_HEADERS);
    }
    const results = await answers.whole();
    const choices = await Promise.all(
      results.map(async (result, index) => ({
        index,
        text: echo(index) + result.text,
        logprobs: await logprobsOf(served, request, result.scores, echo(index).length),
        finish_reason: finishOf(result.finishReason),
      })),
    );
    return c.json({ ...head, choices, usage: answers.usage.toJSON() }, 200);
  });
}

type Prompt = string | number[];

/** One or several. Throws 400 for more answers than a request may have. */
function promptsOf({ prompt, n }: CompletionRequest): Prompt[] {
  const isOne = typeof prompt === "string" || typeof prompt[0] === "number";
  const prompts = isOne ? [prompt as Prompt] : (prompt as Prompt[]);
  const numAnswers = prompts.length * (n ?? 1);
  if (numAnswers > MAX_CHOICES) {
    throw new ApiError(
      400,
      "invalid_value",
      `${numAnswers} answers in one request; at most ${MAX_CHOICES} are given.`,
      {
        param: "n",
      },
    );
  }
  return prompts;
}

function echoOf(prompt: Prompt): string {
  if (typeof prompt === "string") return prompt;
  throw new ApiError(400, "unsupported_parameter", "'echo' needs a prompt that is text.", { param: "echo" });
}

function generations(
  context: ServerContext,
  served: ServedModel,
  request: CompletionRequest,
  prompts: readonly Prompt[],
  n: number,
  c: ServerRequest,
) {
  const options = {
    ...answerOptions(request),
    signal: c.get("work").signal,
    ...standingOf(request, c.get("client")),
    ...prefixScope(context, c.get("owner"), request),
    maxTokens: request.max_tokens ?? DEFAULT_MAX_TOKENS,
    ...(typeof request.logprobs === "number" ? { logprobs: request.logprobs } : {}),
    ...(request.adapter ? { adapter: request.adapter } : {}),
  };
  return prompts.flatMap((prompt) =>
    Array.from({ length: n }, (_, i) =>
      served.model.generate(prompt, { ...options, ...choiceOptions(options, i) }),
    ),
  );
}

const logprobsOf = async (
  served: ServedModel,
  request: CompletionRequest,
  scores: GenerationResult["scores"],
  offset: number,
) =>
  typeof request.logprobs === "number" ? completionLogprobs(served.vocabulary, scores ?? [], offset) : null;

async function* chunks(
  answers: Answers,
  served: ServedModel,
  head: object,
  request: CompletionRequest,
  echo: (index: number) => string,
): AsyncGenerator<string, void> {
  const wantsUsage = request.stream_options?.include_usage === true;
  const choice = (index: number, text: string, finishReason: string | null, logprobs: object | null) =>
    event({
      ...head,
      choices: [{ index, text, logprobs, finish_reason: finishReason }],
      ...(wantsUsage ? { usage: null } : {}),
    });
  /** Characters of each answer that were sent, what it echoes included. */
  const lengths = new Map<number, number>();
  const begin = (index: number): string => {
    if (lengths.has(index)) return "";
    const text = echo(index);
    lengths.set(index, text.length);
    return text === "" ? "" : choice(index, text, null, null);
  };
  for await (const answer of answers.events()) {
    const { index } = answer;
    let events = begin(index);
    if (answer.kind === "end") {
      events += choice(index, "", finishOf(answer.result.finishReason), null);
    } else {
      const { text, scores } = answer.piece;
      const at = lengths.get(index)!;
      events += choice(index, text, null, await logprobsOf(served, request, scores, at));
      lengths.set(index, at + text.length);
    }
    yield events;
  }
  if (wantsUsage) yield event({ ...head, choices: [], usage: answers.usage.toJSON() });
  yield DONE;
}
