/** POST /v1/embeddings, which there is nothing for yet: it says so in OpenAI's shape. */
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { ServerEnv } from "../context.js";
import { ApiError } from "../errors.js";

export function addEmbeddings(app: OpenAPIHono<ServerEnv>): void {
  app.post("/v1/embeddings", () => {
    throw new ApiError(501, "not_implemented", "This server makes no embeddings: its models give text only.");
  });
}
