import { generateObject, generateText, isStepCount, Output, streamText, tool } from "ai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as z from "zod";
import { openLocal } from "../../test/support/open-local.js";
import { scriptedModel } from "../../test/support/scripted-model.js";
import type { Model } from "../session/model.js";
import { asV3, millrace } from "./index.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

const tide = tool({
  description: "Height of the tide.",
  inputSchema: z.object({ port: z.string() }),
  execute: async ({ port }) => ({ port, height: 2 }),
});
const call = { name: "tide", arguments: '{"port": "Oban"}' };

describe("tools", () => {
  /** Calls the tool, then says what it was told. */
  const caller = () =>
    scriptedModel((_, n) => (n === 0 ? { pieces: ["Let me see."], toolCalls: [call] } : "It is 2 metres."));

  it("are called, and their results go back to the model", async () => {
    const model = caller();
    const got = await generateText({
      model: millrace(model),
      prompt: "How high is the tide at Oban?",
      tools: { tide },
      stopWhen: isStepCount(3),
    });
    expect(got.steps.map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "stop"]);
    expect(got.text).toBe("It is 2 metres.");
    const id = got.steps[0]!.toolCalls[0]!.toolCallId;
    expect(got.steps[0]!.toolCalls).toMatchObject([{ toolName: "tide", input: { port: "Oban" } }]);
    expect(model.calls[0]!.options).toMatchObject({
      tools: [
        {
          name: "tide",
          description: "Height of the tide.",
          parameters: { type: "object", required: ["port"] },
        },
      ],
      toolChoice: "auto",
    });
    expect(model.calls[1]!.prompt).toEqual([
      { role: "user", content: "How high is the tide at Oban?" },
      {
        role: "assistant",
        content: "Let me see.",
        tool_calls: [{ id, type: "function", function: { name: "tide", arguments: { port: "Oban" } } }],
      },
      { role: "tool", content: '{"port":"Oban","height":2}', tool_call_id: id, name: "tide" },
    ]);
  });

  it("are called in streams too", async () => {
    const stream = streamText({
      model: millrace(caller()),
      prompt: "?",
      tools: { tide },
      stopWhen: isStepCount(3),
    });
    const types: string[] = [];
    for await (const { type } of stream.fullStream) if (types.at(-1) !== type) types.push(type);
    expect(types.slice(2, 9)).toEqual([
      "text-start",
      "text-delta",
      "text-end",
      "tool-input-start",
      "tool-input-delta",
      "tool-input-end",
      "tool-call",
    ]);
    expect(await stream.text).toBe("It is 2 metres.");
  });

  it("may be chosen for the model, and those of other providers are left out with a warning", async () => {
    const model = scriptedModel(() => ({ pieces: [], toolCalls: [call] }));
    const search = tool({
      type: "provider",
      id: "acme.search",
      args: {},
      inputSchema: z.object({}),
    } as never);
    const got = await generateText({
      model: millrace(model),
      prompt: "?",
      tools: { tide, search },
      toolChoice: { type: "tool", toolName: "tide" },
    });
    expect(model.calls[0]!.options.toolChoice).toEqual({ name: "tide" });
    expect(model.calls[0]!.options.tools).toHaveLength(1);
    expect(got.warnings).toMatchObject([{ type: "unsupported", feature: "provider tool acme.search" }]);
    expect(got.toolResults).toMatchObject([{ output: { height: 2 } }]);
  });
});

describe("objects", () => {
  let model: Model;
  beforeAll(async () => {
    model = await openLocal();
  });
  afterAll(() => model.close());

  it("fit their schema, whatever the model knows of it", async () => {
    const schema = z.object({ ship: z.enum(["Heron", "Kittiwake"]) });
    const { object } = await generateObject({ model: millrace(model), schema, prompt: "Which?" });
    expect(schema.safeParse(object).success).toBe(true);
  });

  it("are one of the choices where there are such", async () => {
    const options = ["north", "south"];
    const output = Output.choice({ options });
    const got = await generateText({ model: millrace(model), output, prompt: "Where?" });
    expect(options).toContain(got.output);
  });

  it("may be held to an expression instead", async () => {
    const providerOptions = { millrace: { format: { type: "regex", pattern: "[0-2][0-9]:[0-5][0-9]" } } };
    const { text } = await generateText({ model: millrace(model), prompt: "When?", providerOptions });
    expect(text).toMatch(/^[0-2][0-9]:[0-5][0-9]$/);
  });
});

describe("the specification before", () => {
  it("is spoken too", async () => {
    const model = scriptedModel(() => "yes");
    const got = await generateText({
      model: asV3(millrace(model)),
      messages: [{ role: "user", content: [{ type: "file", data: "aGkg4oCm", mediaType: "text/plain" }] }],
    });
    expect(got.text).toBe("yes");
    expect(model.calls[0]!.prompt).toEqual([{ role: "user", content: "hi …" }]);
    const stream = streamText({ model: asV3(millrace(model)), prompt: "?" });
    expect(await stream.text).toBe("yes");
  });
});
