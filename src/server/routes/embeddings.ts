/** POST /v1/embeddings */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { Embedding, EmbedOptions } from "../../index.js";
import type { ServerContext, ServerEnv, ServerRequest } from "../context.js";
import { toApiError } from "../errors.js";
import type { ServedModel } from "../models.js";
import { answer, body, errors } from "../schemas/common.js";
import { type EmbeddingRequest, embeddingRequest, embeddings, inputsOf } from "../schemas/embeddings.js";
import { standingOf } from "../standing.js";
import { UsageCount } from "../usage.js";

const route = createRoute({
  method: "post",
  path: "/v1/embeddings",
  summary: "One vector for each text",
  request: body(embeddingRequest),
  responses: { 200: answer(embeddings, "The vectors, in the order of the texts."), ...errors },
});

export function addEmbeddings(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(route, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const served = await context.models.ready(request.model, work);
    if (context.logPrompts) work.notes.prompt = request.input;
    const embedded = await embed(context, served, request, c);
    const { prompt_tokens, total_tokens, cache_details } = count(context, served, embedded, c).toJSON();
    const encode = request.encoding_format === "base64" ? base64 : (vector: Float32Array) => [...vector];
    const data = embedded.map(({ vector }, index) => ({
      object: "embedding" as const,
      index,
      embedding: encode(vector),
    }));
    const usage = { prompt_tokens, total_tokens, ...(cache_details ? { cache_details } : {}) };
    return c.json({ object: "list" as const, data, model: served.name, usage }, 200);
  });
}

async function embed(
  context: ServerContext,
  served: ServedModel,
  { input, ...request }: EmbeddingRequest,
  c: ServerRequest,
): Promise<Embedding[]> {
  const work = c.get("work");
  const options: EmbedOptions = {
    signal: work.signal,
    ...standingOf(request, c.get("client")),
    ...(request.dimensions ? { dimensions: request.dimensions } : {}),
    ...(request.pooling ? { pooling: request.pooling } : {}),
    ...(typeof request.normalize === "boolean" ? { normalize: request.normalize } : {}),
    ...(request.adapter ? { adapter: request.adapter } : {}),
  };
  work.notes.model = served.name;
  try {
    return await served.model.embed(inputsOf(input), options);
  } catch (error) {
    const failure = work.reason ?? toApiError(error);
    context.metrics.failed(served.name, failure.code);
    throw failure;
  }
}

/** What the texts took, which limits and metrics learn of too. */
function count(
  { metrics, tokenRate }: ServerContext,
  { name }: ServedModel,
  embedded: readonly Embedding[],
  c: ServerRequest,
): UsageCount {
  const usage = new UsageCount(false);
  for (const { numTokens, cache } of embedded) {
    usage.add({ usage: { promptTokens: numTokens, cachedTokens: 0, generatedTokens: 0 }, cache }, true);
    metrics.embedded(name, numTokens, cache);
  }
  tokenRate?.use(c.get("client"), usage.total);
  c.get("work").notes.promptTokens = usage.total;
  return usage;
}

/** Of 32-bit floats, little-endian, as this machine has them or not. */
function base64(vector: Float32Array): string {
  const bytes = Buffer.alloc(vector.length * 4);
  for (const [i, element] of vector.entries()) bytes.writeFloatLE(element, i * 4);
  return bytes.toString("base64");
}
