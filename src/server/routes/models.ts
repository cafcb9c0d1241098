/** GET /v1/models, GET /v1/models/{id}, POST /v1/models/{id}/tokenize */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { ServerContext, ServerEnv } from "../context.js";
import type { ServedModel } from "../models.js";
import { answer, body, errors } from "../schemas/common.js";
import * as schemas from "../schemas/models.js";

const list = createRoute({
  method: "get",
  path: "/v1/models",
  summary: "The models that are served, the default first",
  responses: { 200: answer(schemas.modelList, "All models."), ...errors },
});

const one = createRoute({
  method: "get",
  path: "/v1/models/{id}",
  summary: "One model",
  request: { params: schemas.modelId },
  responses: { 200: answer(schemas.model, "The model."), ...errors },
});

const tokenize = createRoute({
  method: "post",
  path: "/v1/models/{id}/tokenize",
  summary: "The token ids of a text, such as `logit_bias` and prompts take",
  request: { params: schemas.modelId, ...body(schemas.tokenizeRequest) },
  responses: { 200: answer(schemas.tokens, "The ids."), ...errors },
});

export function addModels(app: OpenAPIHono<ServerEnv>, { models }: ServerContext): void {
  app.openapi(list, (c) => c.json({ object: "list" as const, data: models.list.map(modelBody) }, 200));
  app.openapi(one, (c) => c.json(modelBody(models.get(c.req.valid("param").id)), 200));
  app.openapi(tokenize, async (c) => {
    const { model } = await models.ready(c.req.valid("param").id, c.get("work"));
    const { text, add_special, parse_special } = c.req.valid("json");
    const tokens = await model.tokenize(text, {
      addSpecial: add_special ?? true,
      parseSpecial: parse_special ?? false,
    });
    return c.json({ object: "tokens" as const, tokens }, 200);
  });
}

function modelBody({ name, info, created }: ServedModel): schemas.ModelBody {
  return {
    id: name,
    object: "model",
    created,
    owned_by: "millrace",
    architecture: info.architecture,
    context: info.context,
    trained_context: info.trainedContext,
    vocabulary: info.vocabularySize,
    sequences: info.sequences,
    backend: info.backend.name,
    cache: { ...info.cache },
    adapters: [...info.adapters],
  };
}
