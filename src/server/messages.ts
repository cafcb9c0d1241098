/** OpenAI's messages and tools as chat templates and the engine read them. */
import type { AnswerFormat, AnswerOptions, ChatMessage, RenderOptions, Tool, ToolChoice } from "../index.js";
import { ApiError } from "./errors.js";
import type { ChatMessages, ChatRequest } from "./schemas/chat.js";

type Text = Extract<ChatMessages[number], { role: "user" }>["content"];

/** Messages with the keys that templates read beside role and content. */
export function templateMessages(messages: ChatMessages): ChatMessage[] {
  return messages.map((message): ChatMessage => {
    const name = message.name ? { name: message.name } : {};
    switch (message.role) {
      // What "developer" is to newer models of OpenAI's, "system" is to templates.
      case "developer":
      case "system":
      case "user":
        return {
          role: message.role === "user" ? "user" : "system",
          content: textOf(message.content),
          ...name,
        };
      case "tool":
        return {
          role: "tool",
          content: textOf(message.content),
          ...{ tool_call_id: message.tool_call_id },
          ...name,
        };
      case "assistant":
        return {
          role: "assistant",
          content: textOf(message.content ?? message.refusal ?? ""),
          ...name,
          ...(message.reasoning_content ? { reasoning_content: message.reasoning_content } : {}),
          ...(message.tool_calls?.length ? { tool_calls: message.tool_calls.map(templateCall) } : {}),
        };
      default:
        return message satisfies never;
    }
  });
}

const textOf = (content: Text): string =>
  typeof content === "string" ? content : content.map(({ text }) => text).join("\n");

/** Templates write arguments as JSON themselves, so they get the object. */
function templateCall(call: { id: string; type: "function"; function: { name: string; arguments: string } }) {
  const { name, arguments: text } = call.function;
  try {
    return { ...call, function: { name, arguments: JSON.parse(text) as unknown } };
  } catch {
    return call;
  }
}

/** Where the reading of a request's tools and format may end. */
export interface Structure {
  readonly render: RenderOptions;
  readonly answer: AnswerOptions;
}

/** The fields that say so. */
type StructureFields = Partial<
  Pick<
    ChatRequest,
    | "response_format"
    | "tools"
    | "tool_choice"
    | "parallel_tool_calls"
    | "chat_template_kwargs"
    | "reasoning_effort"
  >
>;

/** Tools, format and template variables of a request. Throws 400 where they contradict each other. */
export function structureOf(request: StructureFields): Structure {
  const tools = (request.tools ?? []).map(
    ({ function: { name, description, parameters, strict } }): Tool => ({
      name,
      ...(description ? { description } : {}),
      ...(parameters ? { parameters } : {}),
      ...(strict ? { strict } : {}),
    }),
  );
  const choice = request.tool_choice ?? null;
  if (choice !== null && choice !== "none" && choice !== "auto" && tools.length === 0) {
    throw new ApiError(400, "invalid_value", "'tool_choice' asks for a call, and there are no tools.", {
      param: "tool_choice",
    });
  }
  const variables = {
    ...request.chat_template_kwargs,
    ...(request.reasoning_effort ? { reasoning_effort: request.reasoning_effort } : {}),
  };
  const format = formatOf(request);
  return {
    render: Object.keys(variables).length === 0 ? {} : { variables },
    answer: {
      ...(format === null ? {} : { format }),
      ...(tools.length === 0 ? {} : { tools }),
      ...(tools.length === 0 || choice === null ? {} : { toolChoice: choiceOf(choice) }),
      ...(tools.length === 0 || request.parallel_tool_calls !== false ? {} : { parallelToolCalls: false }),
    },
  };
}

const choiceOf = (choice: NonNullable<ChatRequest["tool_choice"]>): ToolChoice =>
  typeof choice === "string" ? choice : { name: choice.function.name };

function formatOf({ response_format: format }: StructureFields): AnswerFormat | null {
  switch (format?.type) {
    case undefined:
    case "text":
      return null;
    case "json_object":
      return { type: "json" };
    case "json_schema": {
      const { schema, strict } = format.json_schema;
      return { type: "json-schema", schema: schema ?? true, ...(strict ? { strict } : { strict: false }) };
    }
    case "grammar":
      return { type: "grammar", ebnf: format.grammar };
    case "regex":
      return { type: "regex", pattern: format.regex };
    default:
      return format satisfies never;
  }
}
