/** /v1/sessions: endless streams over HTTP. */
import { z } from "@hono/zod-openapi";
import { chatMessages, responseFormat, toolChoice, tools } from "./chat.js";
import { adapter, json, jsonObject, model, samplingFields, standingFields, usage } from "./common.js";

const size = z
  .union([z.int().min(1), z.string().max(40)])
  .openapi({ description: "Bytes, or a text such as `32 MiB`.", example: "32 MiB" });

export const newSession = z
  .strictObject({
    model,
    memory: size.nullish(),
    cache: jsonObject.nullish().openapi({
      description: "The cache policy and its options.",
      example: { policy: "sinks", window: 1024, sinks: 4 },
    }),
    codec: z.enum(["f32", "f16", "int8"]).nullish().openapi({ description: "How keys and values are kept." }),
    recall: z
      .strictObject({
        disk: size,
        memory: size.nullish(),
        tokens: z.int().min(1).nullish(),
        block: z.int().min(16).nullish(),
        by: z.enum(["tokens", "keys", "both"]).nullish(),
        vectors: z.int().min(1).nullish(),
        following: z.int().min(0).nullish(),
        auto: z.boolean().nullish(),
      })
      .nullish()
      .openapi({
        description: "Put what the policy drops on disk, and bring back what a question is about.",
      }),
    adapter,
  })
  .openapi("NewSession");

export type NewSession = z.infer<typeof newSession>;

/** A name alone, of a file in the server's folder: no path can be made of it. */
export const savedName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, { error: "expected letters, digits, _ and -, at most 64" });

export const restoreRequest = z
  .strictObject({ model, name: savedName, memory: size.nullish() })
  .openapi("RestoreSession");
export const saveRequest = z.strictObject({ name: savedName }).openapi("SaveSession");

const input = z.union([z.string(), z.array(z.int().min(0)).min(1), chatMessages]).openapi({
  description: "Text, token ids, or messages, which the model's chat template renders after those before.",
});

export const appendRequest = z
  .strictObject({
    input,
    tools: tools
      .nullish()
      .openapi({ description: "With messages: functions that the template tells the model of." }),
    chat_template_kwargs: z.record(z.string(), json).nullish(),
    add_generation_prompt: z
      .boolean()
      .nullish()
      .openapi({ description: "With messages: open the assistant's turn after them. Default true." }),
    ...standingFields,
  })
  .openapi("Append");

export const generateRequest = z
  .strictObject({
    max_tokens: z
      .union([z.int().min(1), z.literal("inf")])
      .nullish()
      .openapi({ description: "`inf`: without end, with `stream: true` and a policy that lets go." }),
    response_format: responseFormat.nullish(),
    tools: tools.nullish(),
    tool_choice: toolChoice.nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    stream: z.boolean().nullish(),
    resume: z
      .boolean()
      .nullish()
      .openapi({
        description:
          "Go on with the answer that was under way when the session was saved, as it was asked for: beside `stream`, " +
          "`priority` and `deadline`, all other fields are refused.",
      }),
    ...standingFields,
    ...samplingFields,
  })
  .openapi("Generate");

export type AppendRequest = z.infer<typeof appendRequest>;
export type GenerateRequest = z.infer<typeof generateRequest>;

export const rewindRequest = z
  .strictObject({
    to: z.int().min(0).openapi({ description: "Position, in tokens from the stream's start." }),
  })
  .openapi("Rewind");

export const recallRequest = z
  .strictObject({
    question: z
      .union([z.string(), z.array(z.int().min(0)).min(1)])
      .nullish()
      .openapi({
        description: "Default: what was appended last.",
      }),
  })
  .openapi("Recall");

export const report = z
  .object({
    seen: z.int(),
    kept: z.int(),
    merged: z.int(),
    demoted: z.int(),
    dropped: z.int(),
    bytes: z.int(),
    waiting: z.int(),
  })
  .openapi("SessionReport", {
    description: "What became of every token: seen = kept + merged + demoted + dropped.",
  });

export const session = z
  .object({
    id: z.string(),
    object: z.literal("session"),
    created: z.int(),
    model: z.string(),
    cache: z.record(z.string(), z.unknown()),
    recall: z.record(z.string(), z.unknown()).nullable(),
    adapter: z.string().nullable(),
    memory_bytes: z.int(),
    capacity: z.int().nullable().openapi({ description: "Most tokens in all; null: any number." }),
    unfinished: z
      .boolean()
      .openapi({ description: "An answer was under way when it was saved; see `resume`." }),
    report,
  })
  .openapi("Session");

export const inspectedSession = session.extend({
  groups: z.array(z.unknown()).openapi({ description: "The report by group of lanes that share a policy." }),
  tier: z.unknown().openapi({ description: "The disk tier; null where there is none." }),
});

export const mapQuery = z.object({
  columns: z.coerce.number().int().min(1).max(1024).default(128).openapi({ description: "Most stretches." }),
});

const counts = z.array(z.int());

export const streamMap = z
  .object({
    object: z.literal("session.map"),
    seen: z.int(),
    width: z.int().openapi({ description: "Tokens of a stretch." }),
    groups: z.array(
      z.object({
        layers: z.array(z.int()),
        memory: counts.openapi({ description: "Tokens of each stretch that are attended." }),
        merged: counts.openapi({ description: "Part of those." }),
        disk: counts.openapi({ description: "Put on disk." }),
        recalled: counts.openapi({ description: "Of those on disk: attended too." }),
      }),
    ),
  })
  .openapi("StreamMap", { description: "What is in none of the lists is gone." });

export type SessionReport = z.infer<typeof report>;
export type SessionBody = z.infer<typeof session>;
export type StreamMap = z.infer<typeof streamMap>;

export const sessionList = z.object({ object: z.literal("list"), data: z.array(session) });

export const appended = z.object({ object: z.literal("session.appended"), tokens: z.int(), report });

export const sessionAnswer = z
  .object({
    object: z.literal("session.answer"),
    text: z.string(),
    tool_calls: z.array(z.object({ name: z.string(), arguments: z.string() })).optional(),
    finish_reason: z
      .enum(["stop", "length", "deadline"])
      .openapi({ description: "`deadline`: it was over before the answer was whole." }),
    seed: z.int().openapi({ description: "Give it again, from the same state, for the same answer." }),
    usage,
    report,
  })
  .openapi("SessionAnswer");

export type SessionAnswer = z.infer<typeof sessionAnswer>;

export const rewound = z.object({
  object: z.literal("session.rewound"),
  result: z.enum(["exact", "approximate"]),
  report,
});
export const recalled = z.object({ object: z.literal("session.recalled"), recalled: z.unknown(), report });
export const saved = z.object({ object: z.literal("session.saved"), name: z.string(), bytes: z.int() });
export const savedList = z.object({
  object: z.literal("list"),
  data: z.array(z.object({ name: z.string(), bytes: z.int(), saved: z.int() })),
});
export const deleted = z.object({ id: z.string(), object: z.string(), deleted: z.literal(true) });
export const sessionId = z.object({ id: z.string().openapi({ example: "sess_0123456789abcdef01234567" }) });
