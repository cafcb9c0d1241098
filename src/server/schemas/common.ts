/** Parts that several requests share. */
import { z } from "@hono/zod-openapi";

/** A field that OpenAI's API has and this server does not: only null, or its absence, is accepted. */
export const unsupported = (why: string) => z.null({ error: why }).optional();

/** Deeper values are refused: what walks them (templates, schemas, copies between threads) may be recursive. */
const MAX_DEPTH = 64;

/** Any JSON that is not nested too deeply. */
export const json = z.unknown().refine((value) => depthWithin(value, MAX_DEPTH), {
  error: `nested more than ${MAX_DEPTH} levels deep`,
});

/** An object of any JSON that is not nested too deeply. */
export const jsonObject = z.record(z.string(), json);

function depthWithin(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return depth > 0 && Object.values(value).every((inner) => depthWithin(inner, depth - 1));
}

/** How tokens are chosen: OpenAI's fields, and those of ours (below) that have the names other servers gave them. */
export const samplingFields = {
  temperature: z
    .number()
    .min(0)
    .max(2)
    .nullish()
    .openapi({ description: "0: the most probable token. Default 1." }),
  top_p: z.number().min(0).max(1).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  seed: z
    .int()
    .min(0)
    .nullish()
    .openapi({ description: "Same seed, same request: same answer. Choice i uses seed + i." }),
  stop: z
    .union([z.string().min(1), z.array(z.string().min(1)).max(16)])
    .nullish()
    .openapi({ description: "Texts that end the answer and are no part of it." }),
  logit_bias: z
    .record(
      z.string().regex(/^\d{1,9}$/, { error: "expected token ids as keys" }),
      z.number().min(-100).max(100),
    )
    .nullish()
    .openapi({ description: "Token id to what is added to its logit; -100 bans it." }),
  top_k: z.int().min(-1).nullish().openapi({ description: "-1 or 0: off." }),
  min_p: z.number().min(0).max(1).nullish(),
  typical_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().max(10).nullish(),
  penalty_window: z
    .int()
    .min(1)
    .max(1_000_000)
    .nullish()
    .openapi({ description: "Tokens, of prompt and answer, that the three penalties look at. Default 64." }),
  ignore_eos: z.boolean().nullish().openapi({ description: "Go on past the model's end tokens." }),
};

/** Where a request stands among those of others: see `standingOf`. */
export const standingFields = {
  priority: z
    .int()
    .min(-100)
    .max(100)
    .nullish()
    .openapi({ description: "Higher ones go first, while none is forgotten. Default 0." }),
  deadline: z
    .union([z.number().positive(), z.string().max(40)])
    .nullish()
    .openapi({
      description:
        "How long the answer is of use: milliseconds, or a text such as `30s`. What waits until then fails with " +
        "`deadline_passed`; what runs then ends with what it has. Default: for ever.",
      example: "30s",
    }),
};

/** Which prompts share what they begin with alike. */
export const prefixFields = {
  prompt_cache_key: z.string().nullish().openapi({
    description:
      "The prompt shares its beginning only with those of the same key, besides what the server's --share-prefixes says.",
  }),
};

/** Accepted, and of no effect here. */
export const harmlessFields = {
  user: z.string().nullish(),
  safety_identifier: z.string().nullish(),
  metadata: jsonObject.nullish(),
  store: z.boolean().nullish(),
  service_tier: z.string().nullish(),
  prompt_cache_retention: z.string().nullish(),
};

export const streamFields = {
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish(),
      include_obfuscation: z.boolean().nullish(),
    })
    .nullish(),
};

/** Answers per request; each is a sequence of its own. */
export const MAX_CHOICES = 128;

export const choices = z.int().min(1).max(MAX_CHOICES).nullish();

export const model = z
  .string()
  .openapi({ description: "A name of GET /v1/models, or `default`, the first.", example: "default" });

export const adapter = z
  .string()
  .nullish()
  .openapi({ description: "One of the adapters that the model was opened with." });

export const cacheDetails = z
  .object({ dropped_tokens: z.int(), demoted_tokens: z.int(), merged_tokens: z.int() })
  .optional()
  .openapi({
    description: "What the cache policy took out of memory during the request; absent where nothing was.",
  });

export const usage = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
    prompt_tokens_details: z.object({
      cached_tokens: z.int().openapi({ description: "Tokens of the prompt that were in the cache already." }),
      cache_write_tokens: z.int().openapi({
        description: "Tokens of the prompt that were run and kept for prompts that begin alike.",
      }),
      text_tokens: z.int(),
    }),
    completion_tokens_details: z.object({ text_tokens: z.int() }),
    cache_details: cacheDetails,
  })
  .openapi("Usage");

export const errorBody = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string(),
      details: z
        .record(z.string(), z.unknown())
        .optional()
        .openapi({ description: "The numbers behind the message." }),
    }),
  })
  .openapi("Error");

/** Every route's answers that are errors. */
export const errors = {
  default: { description: "What went wrong.", content: { "application/json": { schema: errorBody } } },
} as const;

/** A JSON body of `schema`. */
export const body = <S extends z.ZodType>(schema: S) => ({
  body: { required: true, content: { "application/json": { schema } } },
});

/** An answer that is JSON of `schema`. */
export const answer = <S extends z.ZodType>(schema: S, description: string) => ({
  description,
  content: { "application/json": { schema } },
});

/** An answer that is JSON of `schema`, or, where the request says so, events. */
export const streamed = <S extends z.ZodType>(schema: S, description: string) => ({
  description,
  content: {
    "application/json": { schema },
    "text/event-stream": {
      schema: z.string().openapi({ description: "Server-sent events, with `stream: true`." }),
    },
  },
});
