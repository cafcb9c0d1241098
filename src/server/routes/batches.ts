/** /v1/batches: files of requests, answered in the server's spare time. */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { ServerContext, ServerEnv } from "../context.js";
import { pageOfList } from "../pages.js";
import * as schemas from "../schemas/batches.js";
import { answer, body, errors } from "../schemas/common.js";
import { keptIn } from "./files.js";

const id = { params: schemas.batchId };
const batchOf = (description: string) => ({ 200: answer(schemas.batch, description), ...errors });

const create = createRoute({
  method: "post",
  path: "/v1/batches",
  summary: "Answer all requests of a file, each once, while nobody else waits",
  request: body(schemas.newBatch),
  responses: batchOf("The batch; its file is looked at next."),
});
const list = createRoute({
  method: "get",
  path: "/v1/batches",
  summary: "The caller's batches, newest first",
  request: { query: schemas.batchesQuery },
  responses: { 200: answer(schemas.batchList, "A page of them."), ...errors },
});
const retrieve = createRoute({
  method: "get",
  path: "/v1/batches/{id}",
  summary: "How far a batch is, and where its answers are",
  request: id,
  responses: batchOf("As of now."),
});
const cancel = createRoute({
  method: "post",
  path: "/v1/batches/{id}/cancel",
  summary: "Answer no more of a batch; what was answered is kept",
  request: id,
  responses: batchOf("It comes to its end."),
});

export function addBatches(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(create, async (c) => {
    const batches = await keptIn(context);
    const batch = await batches.create(c.get("owner"), c.req.valid("json"));
    c.get("work").notes.batch = batch.id;
    return c.json(batch, 200);
  });

  app.openapi(list, async (c) => {
    const batches = await keptIn(context);
    return c.json(pageOfList(batches.list(c.get("owner")).reverse(), c.req.valid("query")), 200);
  });

  app.openapi(retrieve, async (c) => {
    const batches = await keptIn(context);
    return c.json(batches.get(c.get("owner"), c.req.valid("param").id), 200);
  });

  app.openapi(cancel, async (c) => {
    const batches = await keptIn(context);
    return c.json(await batches.cancel(c.get("owner"), c.req.valid("param").id), 200);
  });
}
