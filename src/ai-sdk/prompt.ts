/** Conversations in the SDK's form become those that chat templates read. */
import type { ChatMessage } from "../tokenizer/chat.js";
import { unsupported } from "./errors.js";
import type { SdkPrompt } from "./specification.js";

type SdkMessage = SdkPrompt[number];
type UserPart = Extract<SdkMessage, { role: "user" }>["content"][number];
type FilePart = Extract<UserPart, { type: "file" }>;
type AssistantPart = Extract<SdkMessage, { role: "assistant" }>["content"][number];
type ToolPart = Extract<SdkMessage, { role: "tool" }>["content"][number];
type ToolOutput = Extract<ToolPart, { type: "tool-result" }>["output"];

/** A call of a tool, under the keys that templates read. */
export interface TemplateToolCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: unknown };
}

/** A message with the keys that templates read beside role and content, where there is something to say. */
export interface TemplateMessage extends ChatMessage {
  readonly reasoning_content?: string;
  readonly tool_calls?: readonly TemplateToolCall[];
  readonly tool_call_id?: string;
  readonly name?: string;
}

/**
 * The conversation for a chat template: one message for each of the SDK's, and one for each tool result. Text files are
 * taken in as text. Throws an UnsupportedFunctionalityError for other files.
 */
export function templateMessages(prompt: SdkPrompt): TemplateMessage[] {
  return prompt.flatMap((message): TemplateMessage[] => {
    switch (message.role) {
      case "system":
        return [{ role: "system", content: message.content }];
      case "user":
        return [{ role: "user", content: message.content.map(textOf).join("\n") }];
      case "assistant":
        return [assistantMessage(message.content)];
      case "tool":
        return message.content.flatMap(toolMessage);
      default:
        return message satisfies never;
    }
  });
}

function assistantMessage(parts: readonly AssistantPart[]): TemplateMessage {
  let [content, reasoning] = ["", ""];
  const calls: TemplateToolCall[] = [];
  for (const part of parts) {
    switch (part.type) {
      case "text":
      case "file":
        content += textOf(part);
        break;
      case "reasoning":
        reasoning += part.text;
        break;
      case "tool-call":
        calls.push(templateToolCall(part.toolCallId, part.toolName, part.input));
        break;
      default:
        throw unsupported(
          `${part.type} parts of assistant messages`,
          `Millrace's models cannot read ${part.type} parts.`,
        );
    }
  }
  return {
    role: "assistant",
    content,
    ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  };
}

export function templateToolCall(id: string, name: string, input: unknown): TemplateToolCall {
  return { id, type: "function", function: { name, arguments: input } };
}

/** Answers to requests for approval are for the SDK, which acts on them; the model reads the results. */
function toolMessage(part: ToolPart): TemplateMessage[] {
  if (part.type === "tool-approval-response") return [];
  const { toolCallId, toolName, output } = part;
  return [{ role: "tool", content: outputText(output), tool_call_id: toolCallId, name: toolName }];
}

function outputText(output: ToolOutput): string {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "json":
    case "error-json":
      return JSON.stringify(output.value);
    case "execution-denied":
      return output.reason ?? "The call of the tool was denied.";
    case "content":
      return output.value
        .map((part) => {
          if (part.type !== "custom") return textOf(part);
          throw unsupported(
            "custom tool results",
            "Millrace's models cannot read custom parts of tool results.",
          );
        })
        .join("\n");
    default:
      return output satisfies never;
  }
}

function textOf(
  part: { readonly type: "text"; readonly text: string } | Omit<FilePart, "providerOptions">,
): string {
  if (part.type === "text") return part.text;
  const { data, mediaType } = part;
  if (data.type === "text") return data.text;
  if (data.type === "data" && /^text\//.test(mediaType)) {
    const bytes = typeof data.data === "string" ? Buffer.from(data.data, "base64") : data.data;
    return new TextDecoder().decode(bytes);
  }
  throw unsupported(
    `file parts of type ${mediaType}`,
    `The conversation holds a file of type ${mediaType}; Millrace's models read text only. Take its text out of it first.`,
  );
}
