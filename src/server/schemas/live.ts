/** /v1/live: what the server does at the moment. */
import { z } from "@hono/zod-openapi";

export const load = z
  .object({
    gap_ms: z.object({ p50: z.number(), p99: z.number() }).nullable().openapi({
      description:
        "Between two pieces of an answer, of those since the last event; null where there was none.",
    }),
    resident_bytes: z.int(),
    models: z.array(
      z.object({
        name: z.string(),
        tokens_per_second: z.number().openapi({ description: "Prompts and answers, since the last event." }),
        running: z.int(),
        waiting: z.int(),
        used_bytes: z.int().openapi({ description: "Keys and values of requests under way." }),
        cached_bytes: z.int().openapi({ description: "Of prefixes, kept until the room is needed." }),
        cache_bytes: z.int().openapi({ description: "The hard limit on both." }),
      }),
    ),
  })
  .openapi("Load");

export type Load = z.infer<typeof load>;
