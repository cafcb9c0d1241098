import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import type { Model } from "../session/model.js";
import type { Tool } from "../tokenizer/tools/contract.js";

let model: Model;
beforeAll(async () => {
  model = await openNull({ context: 4096 });
});
afterAll(() => model.close());

const tools: Tool[] = [
  {
    name: "weather",
    description: "Of a place.",
    parameters: { type: "object", properties: { celsius: { type: "boolean" } }, required: ["celsius"] },
  },
  { name: "stop" },
];
const messages = [{ role: "user", content: "Rain?" }];

describe("an answer with tools", () => {
  it("is told them by the template", async () => {
    const plain = await model.generate(messages, { maxTokens: 1 }).result;
    const told = await model.generate(messages, { tools, maxTokens: 1 }).result;
    expect(told.usage.promptTokens).toBeGreaterThan(plain.usage.promptTokens + 50);
    expect(told.toolCalls).toEqual([]);
    expect(plain.toolCalls).toBeUndefined();
  });

  it("is one call of a named tool, its arguments as its schema says, and no text", {
    timeout: 120_000,
  }, async () => {
    for (let seed = 0; seed < 3; seed++) {
      const options = { tools, toolChoice: { name: "weather" }, temperature: 1, seed, maxTokens: 300 };
      const { text, toolCalls, finishReason } = await model.generate(messages, options).result;
      expect(finishReason).toBe("stop");
      expect(text).toBe("");
      expect(toolCalls).toHaveLength(1);
      expect(toolCalls![0]!.name).toBe("weather");
      expect(JSON.parse(toolCalls![0]!.arguments)).toEqual({ celsius: expect.any(Boolean) });
    }
  });

  it("is calls where one is required, streamed as they become complete", { timeout: 120_000 }, async () => {
    const generation = model.generate(messages, {
      tools,
      toolChoice: "required",
      parallelToolCalls: false,
      temperature: 1,
      seed: 4,
      maxTokens: 300,
    });
    const pieces = [];
    for await (const piece of generation) pieces.push(piece);
    const { toolCalls, text, tokens } = await generation.result;
    expect(text).toBe("");
    expect(toolCalls).toHaveLength(1);
    expect(pieces.flatMap((piece) => piece.toolCalls ?? [])).toEqual(toolCalls);
    expect(pieces.flatMap((piece) => piece.tokens)).toEqual(tokens);
  });

  it("is a call, or fits its format", { timeout: 120_000 }, async () => {
    for (let seed = 0; seed < 3; seed++) {
      const options = {
        tools,
        format: { type: "regex", pattern: "(yes|no)" },
        temperature: 1,
        seed,
        maxTokens: 300,
      } as const;
      const { text, toolCalls } = await model.generate(messages, options).result;
      if (toolCalls!.length === 0) expect(text).toMatch(/^(yes|no)$/);
      else expect(text).toBe("");
    }
  });

  it.each<[string, object, RegExp]>([
    ["tools that are no list", { tools: {} }, /tools is/],
    ["a name that cannot be", { tools: [{ name: "a b" }] }, /tools\[0\].name/],
    ["a name twice", { tools: [{ name: "a" }, { name: "a" }] }, /tools\[1\].name/],
    ["a schema that is none", { tools: [{ name: "a", parameters: true }] }, /schema of an object/],
    ["a choice of nothing", { toolChoice: "required" }, /toolChoice/],
    ["a choice of none of them", { tools, toolChoice: { name: "x" } }, /"weather", "stop"/],
    ["a choice that is none", { tools, toolChoice: "maybe" }, /"auto", "none", "required"/],
    [
      "a format beside a required call",
      { tools, toolChoice: "required", format: { type: "json" } },
      /format/,
    ],
    ["tools told twice", { tools, chat: { tools: [] } }, /chat.tools/],
  ])("refuses %s", (_, options, message) => {
    expect(() => model.generate(messages, options)).toThrowError(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringMatching(message) }),
    );
  });
});
