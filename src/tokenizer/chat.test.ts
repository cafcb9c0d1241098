import { describe, expect, it } from "vitest";
import { chatFormat, renderChat } from "./chat.js";
import { encodeUtf8 } from "./utf8.js";

/** A tokenizer as far as chat.ts looks: BOS is 0, EOS is 1. */
function tokenizer(chatTemplate: string | null, { addsBos = true, names = ["<s>", "</s>"] } = {}) {
  return {
    chatTemplate,
    bosId: 0,
    eosId: 1,
    addsBos,
    tokenBytes: (id: number) => encodeUtf8(names[id]!),
    idOf: (piece: string) => (names.includes(piece) ? names.indexOf(piece) : undefined),
  };
}

const turns = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hi <b>" },
  { role: "assistant", content: "Hello." },
  { role: "user", content: "Bye" },
];

// The shapes of Llama 2's and Llama 3's templates, cut down.
const LLAMA2 = `{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}`;
const LLAMA3 = `{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}{{- "Today: " + date_string + "\\n" }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}{%- if tools %}{{- tools | tojson }}{%- endif %}`;

describe("renderChat", () => {
  it("renders a conversation of several turns by the model's own template", () => {
    expect(renderChat(tokenizer(LLAMA2), turns)).toBe(
      "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi <b> [/INST] Hello. </s><s>[INST] Bye [/INST]",
    );
  });

  it("passes the date, tools, further variables and further keys of messages", () => {
    const date = new Date(2024, 1, 9, 7, 5);
    const names = ["<|begin_of_text|>", "<|end_of_text|>"];
    expect(
      renderChat(tokenizer(LLAMA3, { names }), turns.slice(1, 2), { date, tools: [{ name: "f" }] }),
    ).toBe(
      "<|begin_of_text|>Today: 09 Feb 2024\n<|start_header_id|>user<|end_header_id|>\n\nHi <b><|eot_id|>" +
        '<|start_header_id|>assistant<|end_header_id|>\n\n[{"name": "f"}]',
    );
    const source = "{{ strftime_now('%A %a %B %H:%M %y %%') }} {{ flag }} {{ messages[0].tool_calls[0].id }}";
    const message = { role: "assistant", content: "", tool_calls: [{ id: "call-7" }] };
    expect(
      renderChat(tokenizer(source, { addsBos: false }), [message], { date, variables: { flag: "on" } }),
    ).toBe("Friday Fri February 07:05 24 % on call-7");
  });

  it("leaves the assistant's turn unopened when asked to", () => {
    const text = renderChat(tokenizer(null), turns.slice(1), { addGenerationPrompt: false });
    expect(text).toBe("<s>User: Hi <b>\nAssistant: Hello.\nUser: Bye\n");
  });

  it("puts BOS first exactly once where the model wants it", () => {
    const user = [{ role: "user", content: "x" }];
    expect(renderChat(tokenizer("{{ messages[0].content }}"), user)).toBe("<s>x");
    expect(renderChat(tokenizer("{{ bos_token + messages[0].content }}"), user)).toBe("<s>x");
    expect(renderChat(tokenizer("{{ messages[0].content }}", { addsBos: false }), user)).toBe("x");
  });

  it("falls back to ChatML where the vocabulary has its tokens, else to plain lines, and says so", () => {
    const chatml = tokenizer(null, { addsBos: false, names: ["<|im_start|>", "<|im_end|>"] });
    expect(chatFormat(chatml)).toMatchObject({ kind: "chatml", stop: [] });
    expect(renderChat(chatml, turns)).toBe(
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n" +
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    );
    expect(chatFormat(tokenizer(null))).toMatchObject({
      kind: "plain",
      stop: ["\nUser:", "\nAssistant:", "\nTool:"],
    });
    expect(renderChat(tokenizer(null), [...turns, { role: "tool", content: "42" }])).toBe(
      "<s>Be brief.\n\nUser: Hi <b>\nAssistant: Hello.\nUser: Bye\nTool: 42\nAssistant:",
    );
    expect(chatFormat(tokenizer("x"))).toEqual({ kind: "model", template: "x", stop: [] });
  });

  it("lets the template's own refusal through as BAD_TEMPLATE", () => {
    expect(() => renderChat(tokenizer(LLAMA2), [turns[2]!])).toThrow(
      expect.objectContaining({
        code: "BAD_TEMPLATE",
        message: expect.stringContaining("Conversation roles must alternate user/assistant"),
      }),
    );
    expect(() => renderChat(tokenizer(null), [{ role: "judge", content: "" }])).toThrow(/unknown role judge/);
  });

  it("makes ranges as Python does, up to a bound", () => {
    const render = (source: string) => renderChat(tokenizer(source, { addsBos: false }), turns);
    expect(render("{{ range(3) }} {{ range(1, 4) }} {{ range(4, 0, -2) }} {{ range(0) | length }}")).toBe(
      "[0, 1, 2] [1, 2, 3] [4, 2] 0",
    );
    expect(() => render("{{ range(1000000000000) }}")).toThrow(
      expect.objectContaining({ code: "BAD_TEMPLATE" }),
    );
    expect(() => render("{{ range(0, 1, 0) }}")).toThrow(/step of 0/);
  });

  it("refuses templates that cannot be read, and messages that are none", () => {
    const code = (value: string) => expect.objectContaining({ code: value });
    expect(() => renderChat(tokenizer("{% if %}"), turns)).toThrow(code("BAD_TEMPLATE"));
    expect(() => renderChat(tokenizer("{{ nothing() }}"), turns)).toThrow(code("BAD_TEMPLATE"));
    expect(() => renderChat(tokenizer(null), [])).toThrow(code("INVALID_ARGUMENT"));
    expect(() => renderChat(tokenizer(null), [{ role: "user", content: 1 as unknown as string }])).toThrow(
      /content of type number in message 0/,
    );
    expect(() => renderChat(tokenizer(null), [{ content: "x" } as never])).toThrow(
      /role undefined in message 0/,
    );
  });
});
