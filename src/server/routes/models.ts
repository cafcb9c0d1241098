/** GET /v1/models, GET /v1/models/{id} */
import { createRoute, type OpenAPIHono, z } from "@hono/zod-openapi";
import type { ServerContext, ServerEnv } from "../context.js";
import type { ServedModel } from "../models.js";
import { answer, errors } from "../schemas/common.js";

const model = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int(),
    owned_by: z.string(),
    architecture: z.string(),
    context: z
      .int()
      .openapi({ description: "Most tokens, of prompt and answer, that one request may hold." }),
    trained_context: z.int(),
    vocabulary: z.int(),
    sequences: z.int().openapi({ description: "Requests that run at once; further ones wait." }),
    backend: z.string(),
    cache: z.record(z.string(), z.unknown()),
    adapters: z.array(z.string()),
  })
  .openapi("Model");

const list = createRoute({
  method: "get",
  path: "/v1/models",
  summary: "The models that are served, the default first",
  responses: {
    200: answer(z.object({ object: z.literal("list"), data: z.array(model) }), "All models."),
    ...errors,
  },
});

const one = createRoute({
  method: "get",
  path: "/v1/models/{id}",
  summary: "One model",
  request: { params: z.object({ id: z.string() }) },
  responses: { 200: answer(model, "The model."), ...errors },
});

export function addModels(app: OpenAPIHono<ServerEnv>, { models }: ServerContext): void {
  app.openapi(list, (c) => c.json({ object: "list" as const, data: models.list.map(modelBody) }, 200));
  app.openapi(one, (c) => c.json(modelBody(models.get(c.req.valid("param").id)), 200));
}

function modelBody({ name, info, created }: ServedModel): z.infer<typeof model> {
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
