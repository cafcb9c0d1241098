/** POST /v1/completions */
import { z } from "@hono/zod-openapi";
import {
  adapter,
  choices,
  harmlessFields,
  MAX_CHOICES,
  model,
  prefixFields,
  samplingFields,
  standingFields,
  streamFields,
  unsupported,
  usage,
} from "./common.js";

const tokens = z.array(z.int().min(0)).min(1);

export const completionRequest = z
  .strictObject({
    model,
    prompt: z
      .union([
        z.string(),
        tokens,
        z.array(z.string()).min(1).max(MAX_CHOICES),
        z.array(tokens).min(1).max(MAX_CHOICES),
      ])
      .openapi({ description: "Text or token ids (run as they are), or a list of either." }),
    max_tokens: z.int().min(1).nullish().openapi({ description: "Default 16, as OpenAI's." }),
    n: choices,
    logprobs: z
      .int()
      .min(0)
      .max(20)
      .nullish()
      .openapi({ description: "Log-probabilities of each token and of so many others." }),
    echo: z.boolean().nullish().openapi({ description: "Put the prompt, a text, before the answer." }),
    adapter,
    ...standingFields,
    ...samplingFields,
    ...streamFields,
    ...prefixFields,
    ...harmlessFields,
    best_of: unsupported("answers are not ranked; ask for n of them"),
    suffix: unsupported("text is continued only, not filled in"),
  })
  .openapi("CompletionRequest");

export type CompletionRequest = z.infer<typeof completionRequest>;

export const completionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number()),
  top_logprobs: z.array(z.record(z.string(), z.number())),
  text_offset: z.array(z.int()),
});

export type CompletionLogprobs = z.infer<typeof completionLogprobs>;

export const completion = z
  .object({
    id: z.string(),
    object: z.literal("text_completion"),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(
      z.object({
        index: z.int(),
        text: z.string(),
        logprobs: completionLogprobs.nullable(),
        finish_reason: z.enum(["stop", "length"]),
      }),
    ),
    usage,
  })
  .openapi("Completion");
