/** Answers the requests of batches as the server answers them over HTTP: same fields, same bodies, same errors. */

import type { BatchAnswer } from "../batch/journal.js";
import type { BatchRequest } from "../batch/lines.js";
import type { Answerer, Measure } from "../batch/run.js";
import { type ErrorCode, MillraceError, type Model } from "../index.js";
import type { ServerApp } from "./app.js";
import { BATCH_URLS } from "./batch-urls.js";
import type { InternalCaller, ServerContext } from "./context.js";
import { ApiError, type ErrorBody } from "./errors.js";
import { EVERYBODY, newId } from "./identity.js";
import { structureOf, templateMessages } from "./messages.js";
import { chatOf } from "./routes/responses.js";
import { type ChatRequest, chatRequest } from "./schemas/chat.js";
import { completionRequest } from "./schemas/completions.js";
import { embeddingRequest } from "./schemas/embeddings.js";
import { responseRequest } from "./schemas/responses.js";
import { Works } from "./work.js";

type BatchUrl = (typeof BATCH_URLS)[number];

/** For whom requests are answered. */
export interface BatchCaller {
  /** Whom turns count for. Default "batch". */
  readonly client?: string;
  /** Default: everybody. */
  readonly owner?: string;
  /** Of all of its requests, whatever they say. Default: what they say. */
  readonly priority?: number;
}

/** Codes of answers after which no other comes: the batch is to stop, and to be gone on with later. */
const FATAL: Readonly<Record<string, ErrorCode>> = { engine_crashed: "WORKER_CRASHED", closed: "CLOSED" };

/** What is taken for the length of answers that have no limit: planning wants a number, and it need not be right. */
const USUAL_ANSWER = 256;
/** As OpenAI's, for completions without a limit. */
const COMPLETION_ANSWER = 16;

/** What answers: a server, but for how it came to be. */
interface Answering {
  readonly app: ServerApp;
  readonly context: ServerContext;
}

/** Requests of all of the server's models. The server's limits on requests and their time are not theirs. */
export function batchAnswerer(
  { app, context }: Answering,
  { client = "batch", owner = EVERYBODY, priority }: BatchCaller = {},
): Answerer {
  const works = new Works({ requests: Number.POSITIVE_INFINITY, requestMs: Number.POSITIVE_INFINITY });
  const caller: InternalCaller = { client, owner, works };
  return {
    async measure({ url, body }: BatchRequest): Promise<Measure> {
      const { model } = context.models.get(String(body.model));
      switch (url as BatchUrl) {
        case "/v1/chat/completions":
          return measureChat(model, chatRequest.parse(body));
        case "/v1/completions":
          return measureCompletion(model, body);
        case "/v1/responses":
          return measureChat(model, chatOf(responseRequest.parse(body)));
        case "/v1/embeddings":
          return { tokens: await tokensOf(model, embeddingRequest.parse(body).input), answerTokens: 0 };
        default:
          throw new MillraceError("INVALID_ARGUMENT", `No batch may name ${url}.`);
      }
    },

    async answer({ url, body }: BatchRequest, signal: AbortSignal): Promise<BatchAnswer> {
      if (!(BATCH_URLS as readonly string[]).includes(url))
        return refused("url", `The url ${url} is none that a batch may name: ${BATCH_URLS.join(", ")}.`);
      if (body.stream === true) return refused("stream", "A batch cannot stream; leave out 'stream'.");
      const ordered = priority === undefined ? body : { ...body, priority };
      const init = {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(ordered),
        signal,
      };
      const response = await app.request(url, init, { caller });
      const answer: unknown = await response.json();
      const code = response.ok ? null : (answer as ErrorBody).error.code;
      const fatal = code === null ? undefined : FATAL[code];
      if (fatal) throw new MillraceError(fatal, (answer as ErrorBody).error.message);
      const request_id = response.headers.get("x-request-id") ?? "";
      return { response: { status_code: response.status, request_id, body: answer }, error: null };
    },
  };
}

/** As the server would refuse it. */
function refused(param: string, message: string): BatchAnswer {
  const { status, body } = new ApiError(400, "invalid_value", message, { param });
  return { response: { status_code: status, request_id: newId("req_"), body }, error: null };
}

async function measureChat(model: Model, request: ChatRequest): Promise<Measure> {
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

async function measureCompletion(model: Model, body: BatchRequest["body"]): Promise<Measure> {
  const { prompt, max_tokens } = completionRequest.parse(body);
  return { tokens: await tokensOf(model, prompt), answerTokens: max_tokens ?? COMPLETION_ANSWER };
}

type Prompts = string | number[] | string[] | number[][];

/** Of several prompts, the first speaks for all. */
function tokensOf(model: Model, prompts: Prompts): Promise<ArrayLike<number>> | number[] {
  const first = typeof prompts === "string" || typeof prompts[0] === "number" ? prompts : prompts[0]!;
  return typeof first === "string" ? model.tokenize(first) : (first as number[]);
}
