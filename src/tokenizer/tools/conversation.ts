/** Tools in conversations: what a template gets to see of them. */
import type { Tool } from "./contract.js";

/** A message of a conversation. */
interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** A tool in the form that chat templates expect, which is OpenAI's. */
export function templateTool({
  name,
  description,
  parameters = { type: "object", properties: {} },
}: Tool): unknown {
  const spoken = description === undefined ? {} : { description };
  return { type: "function", function: { name, ...spoken, parameters } };
}

interface Called {
  readonly function?: { readonly name?: unknown; readonly arguments?: unknown };
}

const callsOf = (message: ChatMessage): readonly Called[] => {
  const { tool_calls: calls } = message as { readonly tool_calls?: unknown };
  return Array.isArray(calls) ? calls : [];
};

/** `messages` with the arguments of earlier calls as data: templates write JSON of them themselves. */
export function withParsedCalls(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  return messages.map((message) => {
    const calls = callsOf(message);
    if (calls.length === 0) return message;
    const parsed = calls.map((call) => {
      const given = call.function?.arguments;
      if (typeof given !== "string") return call;
      try {
        return { ...call, function: { ...call.function, arguments: JSON.parse(given) } };
      } catch {
        return call;
      }
    });
    return { ...message, tool_calls: parsed };
  });
}

/**
 * `messages` for a template that knows nothing of tools: the system message tells of them as Hermes's template does,
 * earlier calls stand in the assistant's words, and their results come from the user.
 */
export function spokenTools(messages: readonly ChatMessage[], tools: readonly unknown[]): ChatMessage[] {
  const spoken: ChatMessage[] = [];
  const [first] = messages;
  const system = first?.role === "system" ? `${first.content}\n\n` : "";
  const list = tools.map((tool) => JSON.stringify(tool)).join("\n");
  spoken.push({
    role: "system",
    content:
      `${system}You may call functions to answer. They are, as JSON:\n<tools>\n${list}\n</tools>\n` +
      "To call one, answer with its name and arguments as JSON between these marks:\n" +
      '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>',
  });
  for (const message of system === "" ? messages : messages.slice(1)) {
    const last = spoken.at(-1)!;
    if (message.role === "tool") {
      const result = `<tool_response>\n${message.content}\n</tool_response>`;
      if (last.role === "user" && last.content.endsWith("</tool_response>")) {
        spoken[spoken.length - 1] = { role: "user", content: `${last.content}\n${result}` };
      } else spoken.push({ role: "user", content: result });
      continue;
    }
    const calls = callsOf(message).map(
      ({ function: call }) =>
        `<tool_call>\n${JSON.stringify({ name: call?.name, arguments: call?.arguments })}\n</tool_call>`,
    );
    const content = [message.content, ...calls].filter((part) => part !== "").join("\n");
    spoken.push(calls.length === 0 ? message : { role: message.role, content });
  }
  return spoken;
}
