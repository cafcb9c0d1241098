/** POST /v1/responses */
import { z } from "@hono/zod-openapi";
import {
  adapter,
  harmlessFields,
  jsonObject,
  model,
  prefixFields,
  samplingFields,
  standingFields,
  unsupported,
} from "./common.js";

const part = z.strictObject({
  type: z.enum(["input_text", "output_text", "text"], { error: "expected input_text: there is text only" }),
  text: z.string(),
  annotations: z.array(jsonObject).nullish(),
  logprobs: z.array(jsonObject).nullish(),
});

const item = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("message").default("message"),
    role: z.enum(["system", "developer", "user", "assistant"]),
    content: z.union([z.string(), z.array(part)]),
    id: z.string().nullish(),
    status: z.string().nullish(),
  }),
  z.strictObject({
    type: z.literal("function_call"),
    call_id: z.string(),
    name: z.string(),
    arguments: z.string(),
    id: z.string().nullish(),
    status: z.string().nullish(),
  }),
  z.strictObject({
    type: z.literal("function_call_output"),
    call_id: z.string(),
    output: z.union([z.string(), z.array(part)]),
    id: z.string().nullish(),
    status: z.string().nullish(),
  }),
]);

const tool = z.strictObject({
  type: z.literal("function"),
  name: z.string().regex(/^[\w-]{1,64}$/, { error: "expected letters, digits, _ and -, at most 64" }),
  description: z.string().nullish(),
  parameters: jsonObject.nullish(),
  strict: z.boolean().nullish(),
});

const format = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text") }),
  z.strictObject({ type: z.literal("json_object") }),
  z.strictObject({
    type: z.literal("json_schema"),
    name: z.string(),
    description: z.string().nullish(),
    schema: jsonObject,
    strict: z.boolean().nullish(),
  }),
]);

const { stop: _, ...sampling } = samplingFields;

export const responseRequest = z
  .strictObject({
    model,
    input: z.union([z.string(), z.array(item).min(1)]),
    instructions: z.string().nullish(),
    max_output_tokens: z.int().min(1).nullish(),
    stream: z.boolean().nullish(),
    stream_options: z.strictObject({ include_obfuscation: z.boolean().nullish() }).nullish(),
    text: z
      .strictObject({ format: format.nullish(), verbosity: unsupported("say it in the instructions") })
      .nullish(),
    tools: z.array(tool).max(128).nullish(),
    tool_choice: z
      .union([
        z.enum(["none", "auto", "required"]),
        z.strictObject({ type: z.literal("function"), name: z.string() }),
      ])
      .nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    reasoning: z.strictObject({ effort: z.string().nullish() }).nullish(),
    truncation: z
      .literal("disabled", { error: "a prompt is never cut; sessions take streams of any length" })
      .nullish(),
    adapter,
    ...standingFields,
    ...sampling,
    ...prefixFields,
    ...harmlessFields,
    previous_response_id: unsupported("responses are not kept; send the whole input, or use a session"),
    conversation: unsupported("responses are not kept; send the whole input, or use a session"),
    background: unsupported("answers are given at once"),
    include: unsupported("there is nothing to add"),
    prompt: unsupported("there are no stored prompts"),
    max_tool_calls: unsupported("no tools are called here"),
    top_logprobs: unsupported("ask /v1/chat/completions"),
  })
  .openapi("ResponseRequest");

export type ResponseRequest = z.infer<typeof responseRequest>;

/** As OpenAI's; too wide to be written out for what is answered here. */
export const response = z
  .looseObject({
    id: z.string(),
    object: z.literal("response"),
    created_at: z.int(),
    status: z.enum(["in_progress", "completed", "incomplete"]),
    model: z.string(),
    output: z.array(z.looseObject({ id: z.string(), type: z.enum(["message", "function_call"]) })),
  })
  .openapi("Response");
