/** POST /v1/chat/completions */
import { z } from "@hono/zod-openapi";
import {
  adapter,
  choices,
  harmlessFields,
  json,
  jsonObject,
  model,
  prefixFields,
  samplingFields,
  standingFields,
  streamFields,
  unsupported,
  usage,
} from "./common.js";

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const text = z.union([z.string(), z.array(textPart)]);

const toolCall = z.strictObject({
  id: z.string(),
  type: z.literal("function"),
  function: z.strictObject({ name: z.string(), arguments: z.string() }),
});

const message = z
  .discriminatedUnion("role", [
    z.strictObject({ role: z.enum(["system", "developer"]), content: text, name: z.string().nullish() }),
    z.strictObject({ role: z.literal("user"), content: text, name: z.string().nullish() }),
    z.strictObject({
      role: z.literal("assistant"),
      content: text.nullish(),
      name: z.string().nullish(),
      refusal: z.string().nullish(),
      reasoning_content: z.string().nullish(),
      tool_calls: z.array(toolCall).nullish(),
      function_call: unsupported("give tool_calls"),
      audio: unsupported("there is no audio"),
    }),
    z.strictObject({
      role: z.literal("tool"),
      content: text,
      tool_call_id: z.string(),
      name: z.string().nullish(),
    }),
  ])
  .openapi("ChatMessage");

export const chatMessages = z.array(message).min(1);
export type ChatMessages = z.infer<typeof chatMessages>;

const tool = z.strictObject({
  type: z.literal("function"),
  function: z.strictObject({
    name: z.string().regex(/^[\w-]{1,64}$/, { error: "expected letters, digits, _ and -, at most 64" }),
    description: z.string().nullish(),
    parameters: jsonObject.nullish(),
    strict: z.boolean().nullish(),
  }),
});

export const tools = z.array(tool).max(128);

export const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: z.string() }) }),
]);

export const responseFormat = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("text") }),
  z.strictObject({ type: z.literal("json_object") }),
  z.strictObject({
    type: z.literal("json_schema"),
    json_schema: z.strictObject({
      name: z.string(),
      description: z.string().nullish(),
      schema: jsonObject.optional(),
      strict: z.boolean().nullish(),
    }),
  }),
  z.strictObject({ type: z.literal("grammar"), grammar: z.string().min(1) }),
  z.strictObject({ type: z.literal("regex"), regex: z.string().min(1) }),
]);

export const chatRequest = z
  .strictObject({
    model,
    messages: chatMessages,
    max_completion_tokens: z.int().min(1).nullish(),
    max_tokens: z.int().min(1).nullish().openapi({ description: "The older name of max_completion_tokens." }),
    n: choices,
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(20).nullish(),
    response_format: responseFormat.nullish().openapi({
      description:
        "`grammar` (EBNF as of GBNF, from `root` on) and `regex` (of the whole answer) are additions of this server.",
    }),
    tools: tools.nullish(),
    tool_choice: toolChoice.nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    chat_template_kwargs: z
      .record(z.string(), json)
      .nullish()
      .openapi({ description: "Variables that the model's chat template reads, such as enable_thinking." }),
    reasoning_effort: z
      .string()
      .nullish()
      .openapi({ description: "Given to the chat template under this name." }),
    adapter,
    ...standingFields,
    ...samplingFields,
    ...streamFields,
    ...prefixFields,
    ...harmlessFields,
    modalities: z.array(z.literal("text", { error: "only text can be answered" })).nullish(),
    audio: unsupported("there is no audio"),
    prediction: unsupported("predicted outputs are not read"),
    web_search_options: unsupported("there is no search"),
    verbosity: unsupported("say it in the prompt"),
    functions: unsupported("give tools"),
    function_call: unsupported("give tool_choice"),
  })
  .openapi("ChatCompletionRequest");

export type ChatRequest = z.infer<typeof chatRequest>;

const tokenLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int()).nullable(),
});

export const contentLogprob = tokenLogprob.extend({ top_logprobs: z.array(tokenLogprob) });

const finishReason = z.enum(["stop", "length", "tool_calls"]);

export const chatCompletion = z
  .object({
    id: z.string(),
    object: z.literal("chat.completion"),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({
          role: z.literal("assistant"),
          content: z.string().nullable(),
          refusal: z.null(),
          tool_calls: z.array(toolCall).optional(),
        }),
        logprobs: z.object({ content: z.array(contentLogprob), refusal: z.null() }).nullable(),
        finish_reason: finishReason,
      }),
    ),
    usage,
  })
  .openapi("ChatCompletion");

export type ChatCompletion = z.infer<typeof chatCompletion>;
