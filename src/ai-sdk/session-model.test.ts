import { InvalidArgumentError } from "@ai-sdk/provider";
import { generateText, type ModelMessage, streamText } from "ai";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openLocal } from "../../test/support/open-local.js";
import { boxedModelPath } from "../formats/boxed.js";
import type { Model } from "../session/model.js";
import type { Session } from "../session/session.js";
import { millraceSession } from "./index.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

let model: Model;
beforeAll(async () => {
  model = await openLocal({}, boxedModelPath("boxed:harbour-small")!);
});
afterAll(() => model.close());

let session: Session;
beforeEach(() => {
  session = model.session({ memory: "8 MiB" });
});
afterEach(() => session.close());

const user = (content: string): ModelMessage => ({ role: "user", content });
const first = user("The Grey Heron came in with salt.");
const second = user("Where is she from?");
const other = user("What did she bring?");
const length = { maxOutputTokens: 8 };

/** The tokens that the session holds. */
async function position(): Promise<number> {
  await session.inspect();
  return session.report.seen + session.report.waiting;
}

describe("a model over a session", () => {
  it("says what the session says, and runs nothing twice", async () => {
    const mirror = model.session({ memory: "8 MiB" });
    const said: string[] = [];
    let messages: ModelMessage[] = [];
    const sdk = millraceSession(session, { modelId: "log" });
    for (const message of [first, second, other]) {
      const before = await position();
      const appended = await mirror.append([message as { role: string; content: string }]);
      const want = await mirror.generate({ maxTokens: 8 }).result;
      messages = [...messages, message];
      const got = await generateText({ model: sdk, messages, ...length });
      messages = [...messages, ...got.response.messages];
      said.push(got.text);
      expect(got.text).toBe(want.text);
      expect(got.response.modelId).toBe("log");
      expect(got.usage).toMatchObject({
        inputTokens: before + appended,
        inputTokenDetails: { cacheReadTokens: before, noCacheTokens: appended },
        outputTokens: want.usage.generatedTokens,
      });
    }
    expect(await position()).toBe(mirror.report.seen + mirror.report.waiting);
    expect(said.every((text) => text !== "")).toBe(true);
    await mirror.close();
  });

  it("answers again from where it stood", async () => {
    const sdk = millraceSession(session);
    const one = await generateText({ model: sdk, messages: [first], ...length });
    const two = await generateText({ model: sdk, messages: [first], ...length });
    expect(two.text).toBe(one.text);
    expect(two.usage.inputTokenDetails.noCacheTokens).toBe(1);
    const further = [first, ...two.response.messages, second];
    const go = await generateText({ model: sdk, messages: further, ...length });
    const mirror = model.session({ memory: "8 MiB" });
    await mirror.append([first as { role: string; content: string }]);
    await mirror.generate({ maxTokens: 8 }).result;
    await mirror.append([second as { role: string; content: string }]);
    expect(go.text).toBe((await mirror.generate({ maxTokens: 8 }).result).text);
    await mirror.close();
  });

  it("takes a question in the place of the last", async () => {
    const sdk = millraceSession(session);
    const one = await generateText({ model: sdk, messages: [first], ...length });
    const history = [first, ...one.response.messages];
    const [there] = [await position()];
    await generateText({ model: sdk, messages: [...history, second], ...length });
    const got = await generateText({ model: sdk, messages: [...history, other], ...length });
    expect(got.usage.inputTokenDetails.cacheReadTokens).toBe(there);
    const mirror = model.session({ memory: "8 MiB" });
    await mirror.append([first as { role: string; content: string }]);
    await mirror.generate({ maxTokens: 8 }).result;
    await mirror.append([other as { role: string; content: string }]);
    expect(got.text).toBe((await mirror.generate({ maxTokens: 8 }).result).text);
    await mirror.close();
  });

  it("goes on after an answer without a word, which the SDK leaves out of the history", async () => {
    const sdk = millraceSession(session);
    const [end] = model.info.tokenizer.eosIds;
    const silence = { providerOptions: { millrace: { logitBias: { [end!]: 1000 } } } };
    const one = await generateText({ model: sdk, messages: [first], ...length, ...silence });
    expect([one.text, one.response.messages]).toEqual(["", []]);
    const there = await position();
    const two = await generateText({ model: sdk, messages: [first, second], ...length });
    expect(two.usage.inputTokenDetails.cacheReadTokens).toBe(there);
    const history = [first, second, ...two.response.messages];
    const before = await position();
    const three = await generateText({ model: sdk, messages: [...history, other], ...length });
    expect(three.usage.inputTokenDetails.cacheReadTokens).toBe(before);
    await generateText({ model: sdk, messages: [...history, other], ...length, ...silence });
    const again = await generateText({ model: sdk, messages: [...history, other], ...length });
    expect(again.text).toBe(three.text);
  });

  it("goes on after an answer that was broken off, with what was kept of it or without", async () => {
    const sdk = millraceSession(session);
    const abort = new AbortController();
    const providerOptions = { millrace: { ignoreEos: true } };
    const stream = streamText({ model: sdk, messages: [first], abortSignal: abort.signal, providerOptions });
    let kept = "";
    for await (const text of stream.textStream) {
      kept += text;
      if (kept.length > 10) abort.abort();
    }
    const got = await generateText({
      model: sdk,
      messages: [first, { role: "assistant", content: kept }, second],
      ...length,
    });
    const mirror = model.session({ memory: "8 MiB" });
    await mirror.append([first, { role: "assistant", content: kept }, second] as {
      role: string;
      content: string;
    }[]);
    expect(got.text).toBe((await mirror.generate({ maxTokens: 8 }).result).text);
    expect(await position()).toBe(mirror.report.seen + mirror.report.waiting);
    await mirror.close();
  });

  it("refuses another conversation, and says where it differs", async () => {
    const talk = { ...length, providerOptions: { millrace: { ignoreEos: true } } };
    const sdk = millraceSession(session);
    const one = await generateText({ model: sdk, messages: [first], ...talk });
    const nothing = generateText({ model: sdk, messages: [first, ...one.response.messages], ...talk });
    await expect(nothing).rejects.toThrow(/asks nothing/);
    const two = [first, ...one.response.messages, second];
    const { response } = await generateText({ model: sdk, messages: two, ...talk });
    const before = await position();
    const wrong: [ModelMessage[], RegExp][] = [
      [
        [other],
        /at message 0: there stands "The Grey Heron.*" of the user, and the call has "What did she bring\?"/,
      ],
      [[first], /the call ends before it, with 1 messages/],
      [[first, { role: "assistant", content: "No." }, second], /at message 1: .* of the assistant/],
    ];
    for (const [messages, message] of wrong) {
      const error = await generateText({ model: sdk, messages, ...talk }).catch((error: unknown) => error);
      expect([message, InvalidArgumentError.isInstance(error), error]).toMatchObject([message, true, {}]);
      expect((error as Error).message).toMatch(message);
      expect((error as Error).cause).toMatchObject({ code: "INVALID_ARGUMENT" });
    }
    expect(await position()).toBe(before);
    const further = [...two, ...response.messages, other];
    expect((await generateText({ model: sdk, messages: further, ...talk })).text).not.toBe("");
  });

  it("keeps what was appended directly, and takes back nothing before it", async () => {
    await session.append("<|log|>06:10 The Grey Heron came in from Oban with salt.\n");
    const log = await position();
    const sdk = millraceSession(session);
    const one = await generateText({ model: sdk, messages: [first], ...length });
    expect(one.usage.inputTokenDetails.cacheReadTokens).toBe(log);
    await session.append("06:20 The wind turned.\n");
    const again = generateText({ model: sdk, messages: [first], ...length });
    await expect(again).rejects.toThrow(/tokens were appended to the session since/);
    const history = [first, ...one.response.messages, second];
    expect((await generateText({ model: sdk, messages: history, ...length })).finishReason).toBeTypeOf(
      "string",
    );
  });

  it("answers one call at a time", async () => {
    const sdk = millraceSession(session);
    const one = generateText({ model: sdk, messages: [first], ...length });
    const two = generateText({ model: sdk, messages: [first], ...length });
    await expect(two).rejects.toThrow(/busy with another call/);
    expect((await one).text).not.toBe("");
  });

  it("goes on from a conversation that was saved with the session", async () => {
    const sdk = millraceSession(session);
    const one = await generateText({ model: sdk, messages: [first], ...length });
    const fork = await session.fork();
    const history = [
      { role: "user" as const, content: [{ type: "text" as const, text: first.content as string }] },
      { role: "assistant" as const, content: [{ type: "text" as const, text: one.text }] },
    ];
    const messages = [first, ...one.response.messages, second];
    const resumed = await generateText({ model: millraceSession(fork, { history }), messages, ...length });
    expect(resumed.text).toBe((await generateText({ model: sdk, messages, ...length })).text);
    await fork.close();
  });
});
