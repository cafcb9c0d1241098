/** /v1/models: what is served. */
import { z } from "@hono/zod-openapi";

export const model = z
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

export const modelList = z.object({ object: z.literal("list"), data: z.array(model) });
export const modelId = z.object({ id: z.string() });

export const tokenizeRequest = z
  .strictObject({
    text: z.string(),
    add_special: z
      .boolean()
      .nullish()
      .openapi({ description: "Add the tokens that a prompt begins and ends with. Default true." }),
    parse_special: z
      .boolean()
      .nullish()
      .openapi({ description: "Take names of control tokens for those tokens. Default false." }),
  })
  .openapi("Tokenize");

export const tokens = z.object({ object: z.literal("tokens"), tokens: z.array(z.int()) }).openapi("Tokens");

export type ModelBody = z.infer<typeof model>;
export type TokenizeRequest = z.infer<typeof tokenizeRequest>;
export type Tokens = z.infer<typeof tokens>;
