/** Answers the requests of batches as the server answers them over HTTP: same fields, same bodies, same errors. */

import { type BatchAnswer, failure } from "../batch/journal.js";
import type { BatchRequest } from "../batch/lines.js";
import type { Answerer, Measure } from "../batch/run.js";
import { type ErrorCode, MillraceError, type Model } from "../index.js";
import type { Server } from "./create.js";
import type { ErrorBody } from "./errors.js";
import { structureOf, templateMessages } from "./messages.js";
import { chatRequest } from "./schemas/chat.js";
import { completionRequest } from "./schemas/completions.js";

/** The endpoints that a batch may name. */
const URLS = ["/v1/chat/completions", "/v1/completions"] as const;

/** Codes of answers after which no other comes: the batch is to stop, and to be gone on with later. */
const FATAL: Readonly<Record<string, ErrorCode>> = { engine_crashed: "WORKER_CRASHED", closed: "CLOSED" };

/** What is taken for the length of answers that have no limit: planning wants a number, and it need not be right. */
const USUAL_ANSWER = 256;
/** As OpenAI's, for completions without a limit. */
const COMPLETION_ANSWER = 16;

/** Requests of all of the server's models, which share its limits. */
export function batchAnswerer({ app, context }: Server): Answerer {
  return {
    async measure({ url, body }: BatchRequest): Promise<Measure> {
      const { model } = context.models.get(String(body.model));
      return url === "/v1/completions" ? measureCompletion(model, body) : measureChat(model, body);
    },

    async answer({ url, body }: BatchRequest, signal: AbortSignal): Promise<BatchAnswer> {
      if (!(URLS as readonly string[]).includes(url))
        return refused(`The url ${url} is none that a batch may name: ${URLS.join(", ")}.`);
      if (body.stream === true) return refused("A batch cannot stream; leave out stream.");
      const response = await app.request(url, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      });
      const answer: unknown = await response.json();
      const code = response.ok ? null : (answer as ErrorBody).error.code;
      const fatal = code === null ? undefined : FATAL[code];
      if (fatal) throw new MillraceError(fatal, (answer as ErrorBody).error.message);
      const request_id = response.headers.get("x-request-id") ?? "";
      return { response: { status_code: response.status, request_id, body: answer }, error: null };
    },
  };
}

const refused = (message: string): BatchAnswer => failure(new MillraceError("INVALID_ARGUMENT", message));

async function measureChat(model: Model, body: BatchRequest["body"]): Promise<Measure> {
  const request = chatRequest.parse(body);
  const { render, answer } = structureOf(request);
  const tools = answer.tools?.map((tool) => ({ type: "function", function: tool }));
  const text = await model.renderChat(templateMessages(request.messages), {
    ...render,
    ...(tools ? { tools } : {}),
  });
  return {
    tokens: await model.tokenize(text, { addSpecial: false, parseSpecial: true }),
    answerTokens: request.max_completion_tokens ?? request.max_tokens ?? USUAL_ANSWER,
  };
}

/** Of several prompts, the first speaks for all. */
async function measureCompletion(model: Model, body: BatchRequest["body"]): Promise<Measure> {
  const { prompt, max_tokens } = completionRequest.parse(body);
  const first = typeof prompt === "string" || typeof prompt[0] === "number" ? prompt : prompt[0]!;
  return {
    tokens: typeof first === "string" ? await model.tokenize(first) : (first as number[]),
    answerTokens: max_tokens ?? COMPLETION_ANSWER,
  };
}
