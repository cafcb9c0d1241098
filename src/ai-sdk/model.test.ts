import {
  AISDKError,
  APICallError,
  InvalidArgumentError,
  UnsupportedFunctionalityError,
} from "@ai-sdk/provider";
import { generateText, streamText } from "ai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openLocal } from "../../test/support/open-local.js";
import { scriptedModel } from "../../test/support/scripted-model.js";
import { MillraceError } from "../errors.js";
import type { Model } from "../session/model.js";
import { millrace } from "./index.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

let model: Model;
beforeAll(async () => {
  model = await openLocal();
});
afterAll(() => model.close());

const question = "<|log|>06:10 The Grey Heron came in from Oban with salt. Where is the Grey Heron from?";
const messages = [{ role: "user", content: question }] as const;

describe("generateText with the model in the box", () => {
  it("says what the model says, with usage, reason and where every token went", async () => {
    const want = await model.generate([{ role: "user", content: question }], { maxTokens: 12 }).result;
    const got = await generateText({ model: millrace(model), prompt: question, maxOutputTokens: 12 });
    expect(got.text).toBe(want.text);
    expect(got.text).not.toBe("");
    expect(got.usage).toMatchObject({
      inputTokens: want.usage.promptTokens,
      outputTokens: want.usage.generatedTokens,
      totalTokens: want.usage.promptTokens + want.usage.generatedTokens,
    });
    expect(got.finishReason).toBe(want.finishReason === "length" ? "length" : "stop");
    expect(got.rawFinishReason).toBe(want.finishReason);
    expect(got.response.modelId).toBe("harbour");
    expect(got.warnings).toEqual([]);
    expect(got.providerMetadata?.millrace).toMatchObject({
      seed: expect.any(Number),
      timings: { prefillMs: expect.any(Number) },
      cache: { seen: want.cache.seen, kept: want.cache.kept, dropped: 0 },
    });
  });

  it("takes seed, temperature, topP and topK as generate does", async () => {
    const sampled = { temperature: 1.5, topK: 50, topP: 0.95, seed: 7 };
    const want = await model.generate(messages, { ...sampled, maxTokens: 20, ignoreEos: true }).result;
    const got = await generateText({
      model: millrace(model),
      prompt: question,
      ...sampled,
      maxOutputTokens: 20,
      providerOptions: { millrace: { ignoreEos: true } },
    });
    expect(got.text).toBe(want.text);
    expect(got.providerMetadata?.millrace?.seed).toBe(7);
    expect(got.finishReason).toBe("length");
  });

  it("ends at stop sequences", async () => {
    const ignoreEos = { providerOptions: { millrace: { ignoreEos: true } } };
    const options = { model: millrace(model), prompt: question, maxOutputTokens: 30, ...ignoreEos };
    const whole = (await generateText(options)).text;
    const stop = whole.slice(5, 8);
    const got = await generateText({ ...options, stopSequences: [stop] });
    expect(got.text).toBe(whole.slice(0, whole.indexOf(stop)));
    expect([got.finishReason, got.rawFinishReason]).toEqual(["stop", "stop-string"]);
  });

  it("reports log-probabilities where they are asked for", async () => {
    const providerOptions = { millrace: { logprobs: 2 } };
    const got = await generateText({
      model: millrace(model),
      prompt: question,
      maxOutputTokens: 3,
      providerOptions,
    });
    const { scores } = await model.generate(messages, { logprobs: 2, maxTokens: 3 }).result;
    expect(got.providerMetadata?.millrace?.logprobs).toEqual(scores);
  });
});

describe("streamText with the model in the box", () => {
  it("streams what generateText says", async () => {
    const options = { model: millrace(model), prompt: question, maxOutputTokens: 25 };
    const want = await generateText(options);
    const stream = streamText(options);
    const pieces: string[] = [];
    for await (const piece of stream.textStream) pieces.push(piece);
    expect(pieces.join("")).toBe(want.text);
    expect(pieces.length).toBeGreaterThan(2);
    expect(await stream.usage).toMatchObject({ outputTokens: want.usage.outputTokens });
    expect(await stream.finishReason).toBe(want.finishReason);
  });

  it("ends with the caller's signal, and frees what it held", async () => {
    const abort = new AbortController();
    const providerOptions = { millrace: { ignoreEos: true } };
    const options = { model: millrace(model), prompt: question, maxOutputTokens: 900, providerOptions };
    const aborted: unknown[] = [];
    const stream = streamText({
      ...options,
      abortSignal: abort.signal,
      onAbort: (event) => void aborted.push(event),
    });
    let pieces = 0;
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta" && ++pieces === 5) abort.abort();
    }
    expect(pieces).toBeLessThan(100);
    expect(aborted).toHaveLength(1);
    const done = async () => (await model.usage()).running === 0;
    await expect.poll(done).toBe(true);
    await expect(generateText({ ...options, abortSignal: abort.signal })).rejects.toMatchObject({
      name: "AbortError",
    });
  });

  it("waits for a slow reader, and is broken off when the reader leaves", async () => {
    const providerOptions = { millrace: { ignoreEos: true } };
    const call = {
      prompt: [{ role: "user" as const, content: [{ type: "text" as const, text: question }] }],
    };
    const { stream } = await millrace(model).doStream({ ...call, maxOutputTokens: 900, providerOptions });
    const reader = stream.getReader();
    await reader.read();
    // Nobody reads: the generation fills its allowance of unread pieces and then stands still.
    const generated = async () => (await model.usage()).used;
    let [before, after] = [-1, await generated()];
    while (before !== after) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      [before, after] = [after, await generated()];
    }
    expect((await model.usage()).running).toBe(1);
    await reader.cancel();
    await expect.poll(async () => (await model.usage()).running).toBe(0);
  });
});

describe("settings", () => {
  it("come back as warnings where they have no effect, or another", async () => {
    const model = scriptedModel(() => "yes");
    const got = await generateText({ model: millrace(model), prompt: "?", topK: 5, reasoning: "none" });
    expect(got.warnings).toMatchObject([
      { type: "compatibility", feature: "temperature" },
      { type: "compatibility", feature: "reasoning" },
    ]);
    expect(model.calls[0]!.options).toMatchObject({
      temperature: 1,
      topK: 5,
      chat: { variables: { enable_thinking: false } },
    });
  });

  it("reach generate, and only those that were given", async () => {
    const model = scriptedModel(() => "yes");
    await generateText({
      model: millrace(model),
      prompt: "?",
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      stopSequences: ["x"],
      providerOptions: {
        millrace: { minP: 0.1, logitBias: { 5: "-Infinity", 6: 2 }, variables: { mood: "calm" } },
      },
      temperature: 0.5,
    });
    const { signal: _, ...options } = model.calls[0]!.options;
    expect(options).toEqual({
      temperature: 0.5,
      minP: 0.1,
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      stop: ["x"],
      logitBias: { 5: Number.NEGATIVE_INFINITY, 6: 2 },
      chat: { variables: { mood: "calm" } },
    });
  });

  it("of ours that are unknown or wrong are refused by name", async () => {
    const error = await generateText({
      model: millrace(scriptedModel(() => "")),
      prompt: "?",
      providerOptions: { millrace: { minp: 1 } },
    }).catch((error: unknown) => error);
    expect(InvalidArgumentError.isInstance(error)).toBe(true);
    expect((error as Error).message).toMatch(/"minp".*Known are: minP/s);
  });
});

describe("conversations", () => {
  it("reach the chat template with calls of tools and their results", async () => {
    const model = scriptedModel(() => "done");
    await generateText({
      model: millrace(model),
      instructions: "Be brief.",
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "look" },
            { type: "file", data: "aGkg4oCm", mediaType: "text/plain" },
          ],
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "hm" },
            { type: "text", text: "I " },
            { type: "text", text: "look." },
            { type: "tool-call", toolCallId: "a", toolName: "tide", input: { port: "Oban" } },
            { type: "tool-call", toolCallId: "b", toolName: "tide", input: { port: "Mallaig" } },
          ],
        },
        {
          role: "tool",
          content: [
            {
              type: "tool-result",
              toolCallId: "a",
              toolName: "tide",
              output: { type: "json", value: { height: 2 } },
            },
            {
              type: "tool-result",
              toolCallId: "b",
              toolName: "tide",
              output: { type: "error-text", value: "no gauge" },
            },
          ],
        },
      ],
    });
    expect(model.calls[0]!.prompt).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "look\nhi …" },
      {
        role: "assistant",
        content: "I look.",
        reasoning_content: "hm",
        tool_calls: [
          { id: "a", type: "function", function: { name: "tide", arguments: { port: "Oban" } } },
          { id: "b", type: "function", function: { name: "tide", arguments: { port: "Mallaig" } } },
        ],
      },
      { role: "tool", content: '{"height":2}', tool_call_id: "a", name: "tide" },
      { role: "tool", content: "no gauge", tool_call_id: "b", name: "tide" },
    ]);
  });

  it("with pictures are refused", async () => {
    const error = await generateText({
      model: millrace(scriptedModel(() => "")),
      messages: [
        { role: "user", content: [{ type: "file", data: new Uint8Array(4), mediaType: "image/png" }] },
      ],
    }).catch((error: unknown) => error);
    expect(UnsupportedFunctionalityError.isInstance(error)).toBe(true);
    expect((error as Error).message).toContain("image/png");
  });
});

describe("errors", () => {
  it("are the SDK's, with ours as their cause, and are not tried again", async () => {
    const prompt = "again and again ".repeat(2000);
    const errors: unknown[] = [
      await generateText({ model: millrace(model), prompt }).catch((error: unknown) => error),
    ];
    const stream = streamText({
      model: millrace(model),
      prompt,
      onError: ({ error }) => void errors.push(error),
    });
    await stream.consumeStream();
    expect(errors).toHaveLength(2);
    for (const error of errors) {
      expect(AISDKError.isInstance(error)).toBe(true);
      expect(APICallError.isInstance(error) && error.isRetryable).toBe(false);
      const { cause } = error as Error;
      expect(cause).toBeInstanceOf(MillraceError);
      expect(cause).toMatchObject({ code: "PROMPT_TOO_LONG", details: { context: 1024 } });
    }
  });

  it("in the middle of a stream reach its reader after what came before", async () => {
    const failing = scriptedModel(() => new MillraceError("WORKER_CRASHED", "gone"));
    const seen: unknown[] = [];
    const stream = streamText({
      model: millrace(failing),
      prompt: "?",
      onError: ({ error }) => void seen.push(error),
    });
    await stream.consumeStream();
    expect(seen).toMatchObject([{ cause: { code: "WORKER_CRASHED" } }]);
    expect(failing.calls).toHaveLength(1);
  });

  it("in what was asked for come as such", async () => {
    const asked = generateText({ model: millrace(model), prompt: "?", temperature: -1 });
    await expect(asked).rejects.toMatchObject({ cause: { code: "INVALID_ARGUMENT" } });
  });
});
