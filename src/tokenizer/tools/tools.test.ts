import { describe, expect, it } from "vitest";
import { renderChat } from "../chat.js";
import { encodeUtf8 } from "../utf8.js";
import type { ToolCall } from "./contract.js";
import { TOOL_FORMATS, type ToolFormatName, toolFormatOf } from "./resolve.js";

const names = new Set(["weather", "add"]);
const weather = { name: "weather", arguments: '{"city":"Aa<b>} \\"c\\""}' };
const add = { name: "add", arguments: '{"a":1,"b":[2]}' };

/** What is left of `answer`, cut into pieces of `size` characters. */
function parse(format: ToolFormatName, answer: string, size: number): { text: string; calls: ToolCall[] } {
  const parser = TOOL_FORMATS[format].parser(names);
  let text = "";
  const calls: ToolCall[] = [];
  const take = (parsed: { text: string; calls: readonly ToolCall[] }) => {
    text += parsed.text;
    calls.push(...parsed.calls);
  };
  for (let at = 0; at < answer.length; at += size) take(parser.push(answer.slice(at, at + size)));
  take(parser.flush());
  return { text, calls };
}

const W = String.raw`{"name": "weather", "arguments": {"city": "Aa<b>} \"c\""}}`;
const A = '{"name": "add", "arguments": {"a": 1, "b": [2]}}';
const L = '{"name": "add", "parameters": {"a": 1, "b": [2]}}';

const CASES: [ToolFormatName, string, string, ToolCall[]][] = [
  ["hermes", `<tool_call>\n${W}\n</tool_call>`, "", [weather]],
  [
    "hermes",
    `Let me see.\n<tool_call>\n${W}\n</tool_call>\n<tool_call>\n${A}\n</tool_call>`,
    "Let me see.",
    [weather, add],
  ],
  ["hermes", "1 < 2, <b>, <tool_, done", "1 < 2, <b>, <tool_, done", []],
  ["hermes", "<tool_call>\nno json\n</tool_call>", "<tool_call>\nno json\n</tool_call>", []],
  [
    "hermes",
    '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
    [],
  ],
  ["hermes", `<tool_call>${A}`, "", [add]],
  ["hermes", '<tool_call>{"name": "add", "argu', '<tool_call>{"name": "add", "argu', []],
  ["llama3", L, "", [add]],
  ["llama3", `<|python_tag|>${L}; ${W}`, "", [add, weather]],
  ["llama3", "Hello { there }", "Hello { there }", []],
  ["llama3", '{"name": "other"} and so on', '{"name": "other"} and so on', []],
  ["llama3", `${L} Done.`, " Done.", [add]],
  ["llama3", '{"name": "add", "par', '{"name": "add", "par', []],
  ["llama3", "<|python", "<|python", []],
  ["mistral", `[TOOL_CALLS] [${W}, ${A}]`, "", [weather, add]],
  ["mistral", ` [${A}]`, "", [add]],
  ["mistral", "[1, 2] is a list", "[1, 2] is a list", []],
  ["json", `\`\`\`json\n${A}\n\`\`\``, "", [add]],
  ["json", `[${A}]`, "", [add]],
  ["json", '{"name": "add", "arguments": "{\\"a\\":1}"}', "", [{ name: "add", arguments: '{"a":1}' }]],
  ["json", "```js\nlet a\n```", "```js\nlet a\n```", []],
  ["json", "", "", []],
];

describe("calls in an answer", () => {
  it.each(CASES)("%s: %j", (format, answer, text, calls) => {
    for (const size of [1, 2, 3, 7, 1000])
      expect(parse(format, answer, size), `pieces of ${size}`).toEqual({ text, calls });
  });

  it("let text through at once where it cannot become a call", () => {
    const parser = TOOL_FORMATS.hermes.parser(names);
    expect(parser.push("The sea")).toEqual({ text: "The sea", calls: [] });
    expect(parser.push(" is <")).toEqual({ text: " is", calls: [] });
    expect(parser.push("b>")).toEqual({ text: " <b>", calls: [] });
    const bare = TOOL_FORMATS.llama3.parser(names);
    expect(bare.push("W")).toEqual({ text: "W", calls: [] });
    expect(bare.push("{x")).toEqual({ text: "{x", calls: [] });
  });
});

describe("tools in a conversation", () => {
  it("name the format of the template's calls", () => {
    expect(toolFormatOf("{% if tools %}<tool_call>")).toBe("hermes");
    expect(toolFormatOf("{% if tools %}[TOOL_CALLS]")).toBe("mistral");
    expect(toolFormatOf("{% if tools %}<|python_tag|>")).toBe("llama3");
    expect(toolFormatOf("{{ tools | tojson }}")).toBe("json");
    expect(toolFormatOf("{{ messages }}")).toBe("hermes");
  });

  const tokenizer = (chatTemplate: string | null) => ({
    chatTemplate,
    bosId: null,
    eosId: null,
    addsBos: false,
    tokenBytes: () => encodeUtf8(""),
    idOf: () => undefined,
  });
  const call = { type: "function", function: { name: "add", arguments: '{"a":1}' } };
  const messages = [
    { role: "user", content: "1 + 1?" },
    { role: "assistant", content: "", tool_calls: [call] },
    { role: "tool", content: "2" },
    { role: "tool", content: "two" },
  ];

  it("reach templates with arguments as data", () => {
    const template = "{{ tools | length }} {{ messages[1].tool_calls[0].function.arguments | tojson }}";
    expect(renderChat(tokenizer(template), messages, { tools: [{}] })).toBe('1 {"a": 1}');
  });

  it("are told in the system message where the template does not know of them", () => {
    const text = renderChat(tokenizer(null), messages, {
      tools: [{ type: "function", function: { name: "add" } }],
    });
    expect(text).toContain('<tools>\n{"type":"function","function":{"name":"add"}}\n</tools>');
    expect(text).toContain('Assistant: <tool_call>\n{"name":"add","arguments":{"a":1}}\n</tool_call>\n');
    expect(text).toContain(
      "User: <tool_response>\n2\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\nAssistant:",
    );
  });
});
