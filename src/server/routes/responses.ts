/** POST /v1/responses, without a memory of its own: the whole input comes with every request. */
import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import type { FinishReason } from "../../index.js";
import { Answers, finishOf } from "../answers.js";
import type { ServerContext, ServerEnv } from "../context.js";
import { event, eventStream, STREAM_HEADERS } from "../event-stream.js";
import { newId, now } from "../identity.js";
import type { ChatMessages, ChatRequest } from "../schemas/chat.js";
import { body, errors, streamed } from "../schemas/common.js";
import { type ResponseRequest, response, responseRequest } from "../schemas/responses.js";
import type { UsageBody } from "../usage.js";
import { generations } from "./chat.js";

const route = createRoute({
  method: "post",
  path: "/v1/responses",
  summary: "Answer, as OpenAI's newer API has it",
  request: body(responseRequest),
  responses: { 200: streamed(response, "The response, whole or as events."), ...errors },
});

export function addResponses(app: OpenAPIHono<ServerEnv>, context: ServerContext): void {
  app.openapi(route, async (c) => {
    const request = c.req.valid("json");
    const work = c.get("work");
    const served = await context.models.ready(request.model, work);
    if (context.logPrompts) work.notes.input = request.input;
    const who = { work, client: c.get("client") };
    const answers = new Answers(context, served, who, generations(context, served, chatOf(request), 1, c), 1);
    const writer = new Writer(served.name, request);
    if (request.stream) {
      return c.body(await eventStream(work, events(answers, writer)), 200, STREAM_HEADERS);
    }
    const [result] = await answers.whole();
    writer.text(result!.text);
    for (const call of result!.toolCalls ?? []) writer.call(call);
    return c.json(writer.end(result!.finishReason, answers.usage.toJSON()), 200);
  });
}

async function* events(answers: Answers, writer: Writer): AsyncGenerator<string, void> {
  // With the first piece: what is refused at once has a status of its own.
  let written: ResponseEvent[] = [...writer.begin()];
  for await (const answer of answers.events()) {
    if (answer.kind === "piece") {
      const { text, toolCalls = [] } = answer.piece;
      written.push(...writer.text(text), ...toolCalls.flatMap((call) => writer.call(call)));
    } else {
      written.push(...writer.close(answer.result.finishReason, answers.usage.toJSON()));
    }
    if (written.length > 0) yield numbered(written);
    written = [];
  }
}

type ResponseEvent = { readonly type: string; readonly [key: string]: unknown };

const numbered = (list: readonly ResponseEvent[]): string =>
  list.map((one) => `event: ${one.type}\n${event(one)}`).join("");

/** Items of a response, and the events that tell how they come to be. */
class Writer {
  readonly #head: Record<string, unknown>;
  readonly #output: ({ id: string; type: "message" | "function_call" } & Record<string, unknown>)[] = [];
  #text: { readonly id: string; text: string } | null = null;
  #sequence = 0;

  constructor(model: string, request: ResponseRequest) {
    const { instructions, max_output_tokens, temperature, top_p, tools, tool_choice, text, metadata } =
      request;
    this.#head = {
      id: newId("resp_"),
      created_at: now(),
      model,
      error: null,
      incomplete_details: null,
      instructions: instructions ?? null,
      max_output_tokens: max_output_tokens ?? null,
      temperature: temperature ?? 1,
      top_p: top_p ?? 1,
      tools: tools ?? [],
      tool_choice: tool_choice ?? "auto",
      parallel_tool_calls: request.parallel_tool_calls ?? true,
      text: { format: text?.format ?? { type: "text" } },
      metadata: metadata ?? {},
      truncation: "disabled",
      store: false,
    };
  }

  begin(): ResponseEvent[] {
    const started = { ...this.#whole("in_progress"), usage: null };
    return [
      this.#event("response.created", { response: started }),
      this.#event("response.in_progress", { response: started }),
    ];
  }

  text(delta: string): ResponseEvent[] {
    if (delta === "") return [];
    const events: ResponseEvent[] = [];
    if (this.#text === null) {
      this.#text = { id: newId("msg_"), text: "" };
      events.push(
        this.#event("response.output_item.added", { item: this.#message("in_progress", []) }),
        this.#event("response.content_part.added", { ...this.#place(), part: outputText("") }),
      );
    }
    this.#text.text += delta;
    events.push(this.#event("response.output_text.delta", { ...this.#place(), delta, logprobs: [] }));
    return events;
  }

  /** Ends the message that is being written, if there is one. */
  closeText(): ResponseEvent[] {
    if (this.#text === null) return [];
    const { text } = this.#text;
    const part = outputText(text);
    const item = this.#message("completed", [part]);
    const events = [
      this.#event("response.output_text.done", { ...this.#place(), text, logprobs: [] }),
      this.#event("response.content_part.done", { ...this.#place(), part }),
      this.#event("response.output_item.done", { item }),
    ];
    this.#output.push(item);
    this.#text = null;
    return events;
  }

  call({ name, arguments: text }: { readonly name: string; readonly arguments: string }): ResponseEvent[] {
    const before = this.closeText();
    const id = newId("fc_");
    const item = { id, type: "function_call" as const, call_id: newId("call_"), name, arguments: text };
    const events = [
      ...before,
      this.#event("response.output_item.added", { item: { ...item, arguments: "", status: "in_progress" } }),
      this.#event("response.function_call_arguments.delta", { item_id: id, delta: text }),
      this.#event("response.function_call_arguments.done", { item_id: id, name, arguments: text }),
      this.#event("response.output_item.done", { item: { ...item, status: "completed" } }),
    ];
    this.#output.push({ ...item, status: "completed" });
    return events;
  }

  /** Ends the stream. */
  close(reason: FinishReason, usage: UsageBody): ResponseEvent[] {
    const events = this.closeText();
    const whole = this.end(reason, usage);
    return [...events, this.#event(`response.${whole.status}`, { response: whole })];
  }

  /** The response, whole. */
  end(reason: FinishReason, usage: UsageBody) {
    this.closeText();
    const isWhole = finishOf(reason) === "stop";
    const { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details, cache_details } = usage;
    const { text_tokens: _, ...inputDetails } = prompt_tokens_details;
    return {
      ...this.#whole(isWhole ? "completed" : "incomplete"),
      incomplete_details: isWhole ? null : { reason: "max_output_tokens" },
      usage: {
        input_tokens: prompt_tokens,
        input_tokens_details: inputDetails,
        output_tokens: completion_tokens,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens,
        ...(cache_details ? { cache_details } : {}),
      },
    };
  }

  #whole(status: "in_progress" | "completed" | "incomplete") {
    const { id, created_at, model, ...rest } = this.#head as {
      id: string;
      created_at: number;
      model: string;
    };
    return { id, object: "response" as const, created_at, status, model, ...rest, output: [...this.#output] };
  }

  #message(status: string, content: readonly object[]) {
    return { id: this.#text!.id, type: "message" as const, status, role: "assistant", content };
  }

  #place() {
    return { item_id: this.#text!.id, content_index: 0 };
  }

  /** Of the item that comes next in the output, where it is of one. */
  #event(type: string, rest: Record<string, unknown>): ResponseEvent {
    const at = "response" in rest ? {} : { output_index: this.#output.length };
    return { type, sequence_number: this.#sequence++, ...at, ...rest };
  }
}

const outputText = (text: string) => ({ type: "output_text", text, annotations: [], logprobs: [] });

/** The same in the words of /v1/chat/completions. */
export function chatOf(request: ResponseRequest): ChatRequest {
  const {
    input,
    instructions,
    max_output_tokens,
    text,
    tools,
    tool_choice: choice,
    reasoning,
    ...rest
  } = request;
  const messages: ChatMessages = [];
  if (instructions) messages.push({ role: "system", content: instructions });
  if (typeof input === "string") messages.push({ role: "user", content: input });
  else for (const item of input) messages.push(messageOf(item));
  const { stream_options: _, truncation: __, ...shared } = rest;
  const format = text?.format;
  return {
    ...shared,
    messages,
    max_completion_tokens: max_output_tokens,
    tools: tools?.map(({ type, ...described }) => ({ type, function: described })),
    tool_choice:
      typeof choice === "object" && choice ? { type: "function", function: { name: choice.name } } : choice,
    reasoning_effort: reasoning?.effort,
    response_format:
      format?.type === "json_schema" ? { type: "json_schema", json_schema: without(format) } : format,
  };
}

const without = <F extends { readonly type: string }>({ type: _, ...rest }: F): Omit<F, "type"> => rest;

type Item = Exclude<ResponseRequest["input"], string>[number];

function messageOf(item: Item): ChatMessages[number] {
  switch (item.type) {
    case "message":
      return { role: item.role, content: textOf(item.content) };
    case "function_call": {
      const { call_id: id, name, arguments: text } = item;
      return {
        role: "assistant",
        tool_calls: [{ id, type: "function", function: { name, arguments: text } }],
      };
    }
    case "function_call_output":
      return { role: "tool", tool_call_id: item.call_id, content: textOf(item.output) };
    default:
      return item satisfies never;
  }
}

const textOf = (content: string | readonly { readonly text: string }[]): string =>
  typeof content === "string" ? content : content.map(({ text }) => text).join("\n");
