/** POST /v1/embeddings */
import { z } from "@hono/zod-openapi";
import { adapter, cacheDetails, model, standingFields } from "./common.js";

/** Texts of one request; OpenAI's. */
const MAX_INPUTS = 2048;

const text = z.string().min(1);
const tokens = z.array(z.int().min(0)).min(1);
// Their number is checked on the whole, or the answer would be that they are no single text.
const several = { maxItems: MAX_INPUTS };

/** The texts of a request, whether it has one or several. */
export const inputsOf = (input: string | number[] | string[] | number[][]) =>
  (typeof input === "string" || typeof input[0] === "number" ? [input] : input) as string[] | number[][];

export const embeddingRequest = z
  .strictObject({
    model,
    input: z
      .union([text, tokens, z.array(text).min(1).openapi(several), z.array(tokens).min(1).openapi(several)])
      .refine((input) => inputsOf(input).length <= MAX_INPUTS, { error: `more than ${MAX_INPUTS} texts` })
      .openapi({ description: "Text or token ids (run as they are), or a list of either." }),
    encoding_format: z
      .enum(["float", "base64"])
      .nullish()
      .openapi({ description: "`base64`: of 32-bit floats, little-endian. Default `float`." }),
    dimensions: z.int().min(1).nullish().openapi({
      description: "Elements of each embedding, the first so many. Default: as many as the model has.",
    }),
    user: z.string().nullish(),
    pooling: z.enum(["mean", "last", "cls"]).nullish().openapi({
      description:
        "How one vector is made of the tokens' states. Default: as the model's file says, else `last`.",
    }),
    normalize: z.boolean().nullish().openapi({ description: "Scale embeddings to length 1. Default true." }),
    adapter,
    ...standingFields,
  })
  .openapi("EmbeddingRequest");

export type EmbeddingRequest = z.infer<typeof embeddingRequest>;

export const embeddings = z
  .object({
    object: z.literal("list"),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.int(),
        embedding: z.union([z.array(z.number()), z.string()]),
      }),
    ),
    model: z.string(),
    usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int(), cache_details: cacheDetails }),
  })
  .openapi("Embeddings");
