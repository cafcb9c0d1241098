import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { eventsOf, serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

const messages = [{ role: "user", content: "the rest" }];
const chat = { model: "tiny", messages, max_tokens: 8, temperature: 0, ignore_eos: true };

describe("the OpenAI API, without weights", () => {
  let model: Model;
  let server: ReturnType<typeof serverOf>;
  beforeAll(async () => {
    model = await openNull();
    server = serverOf({ tiny: model });
  });
  afterAll(() => model.close());

  it("answers a conversation as the engine does", async () => {
    const direct = await model.generate(messages, { maxTokens: 8, temperature: 0, ignoreEos: true }).result;
    const { status, body } = await server.ask("/v1/chat/completions", chat);
    expect(status).toBe(200);
    expect(body).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{24}$/),
      object: "chat.completion",
      created: expect.any(Number),
      model: "tiny",
      system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{10}$/),
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: direct.text, refusal: null },
          logprobs: null,
          finish_reason: "length",
        },
      ],
      usage: {
        prompt_tokens: direct.usage.promptTokens,
        completion_tokens: 8,
        total_tokens: direct.usage.promptTokens + 8,
        prompt_tokens_details: {
          cached_tokens: expect.any(Number),
          cache_write_tokens: expect.any(Number),
          text_tokens: direct.usage.promptTokens,
        },
        completion_tokens_details: { text_tokens: 8 },
      },
    });
  });

  it("streams the same text, a usage chunk where asked for, and [DONE]", async () => {
    const whole = await server.ask("/v1/chat/completions", chat);
    const { status, headers, body } = await server.ask("/v1/chat/completions", {
      ...chat,
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(status).toBe(200);
    expect(headers.get("content-type")).toMatch("text/event-stream");
    const events = eventsOf(body) as never[];
    expect(events.at(-1)).toBe("[DONE]");
    const chunks = events.slice(0, -1) as {
      usage: unknown;
      choices: { delta: { content?: string }; finish_reason: unknown }[];
    }[];
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: "assistant", content: "", refusal: null });
    const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("");
    expect(text).toBe(whole.body.choices[0].message.content);
    expect(chunks.at(-2)!.choices[0]!.finish_reason).toBe("length");
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 8 } });
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
  });

  it("gives n answers that a seed repeats, each from a seed of its own", async () => {
    const request = { ...chat, temperature: 1, seed: 7, n: 3 };
    const [first, second] = [
      await server.ask("/v1/chat/completions", request),
      await server.ask("/v1/chat/completions", request),
    ];
    const texts = first.body.choices.map(
      (choice: { message: { content: string } }) => choice.message.content,
    );
    expect(texts).toHaveLength(3);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect(second.body.choices).toEqual(first.body.choices);
    expect(first.body.usage.completion_tokens).toBe(24);
    const alone = await server.ask("/v1/chat/completions", { ...request, seed: 8, n: 1 });
    expect(alone.body.choices[0].message.content).toBe(texts[1]);
    expect(first.body.usage.prompt_tokens).toBe(alone.body.usage.prompt_tokens);

    const streamed = await server.ask("/v1/chat/completions", { ...request, stream: true });
    const merged = ["", "", ""];
    for (const event of eventsOf(streamed.body).slice(0, -1)) {
      const [choice] = (event as { choices: [{ index: number; delta: { content?: string } }] }).choices;
      merged[choice.index] += choice.delta.content ?? "";
    }
    expect(merged).toEqual(texts);
  });

  it("gives log-probabilities, streamed or whole", async () => {
    const request = { ...chat, logprobs: true, top_logprobs: 2 };
    const { body } = await server.ask("/v1/chat/completions", request);
    const { content } = body.choices[0].logprobs;
    expect(content).toHaveLength(8);
    expect(content[0].top_logprobs[0]).toEqual({
      token: content[0].token,
      bytes: content[0].bytes,
      logprob: content[0].logprob,
    });
    expect(content[0].logprob).toBeLessThan(0);
    const streamed = await server.ask("/v1/chat/completions", { ...request, stream: true });
    const pieces = eventsOf(streamed.body).flatMap(
      (event) =>
        (event as { choices?: [{ logprobs: { content: unknown[] } | null }] }).choices?.[0].logprobs
          ?.content ?? [],
    );
    expect(pieces).toEqual(content);
  });

  it("bans a token by logit_bias, and stops before a stop string", async () => {
    const free = await server.ask("/v1/chat/completions", chat);
    const text: string = free.body.choices[0].message.content;
    const stop = text.slice(3, 5);
    const stopped = await server.ask("/v1/chat/completions", { ...chat, stop });
    expect(stopped.body.choices[0]).toMatchObject({
      message: { content: text.slice(0, text.indexOf(stop)) },
      finish_reason: "stop",
    });
    const [first] = await firstTokens(model);
    const banned = await server.ask("/v1/chat/completions", { ...chat, logit_bias: { [first!]: -100 } });
    expect(banned.body.choices[0].message.content).not.toBe(text);
  });

  it("takes text parts, names and the developer's role", async () => {
    const plain = await server.ask("/v1/chat/completions", {
      ...chat,
      messages: [{ role: "system", content: "Be kind.\nBe brief." }, ...messages],
    });
    const parts = await server.ask("/v1/chat/completions", {
      ...chat,
      messages: [
        {
          role: "developer",
          content: [
            { type: "text", text: "Be kind." },
            { type: "text", text: "Be brief." },
          ],
        },
        ...messages,
      ],
    });
    expect(parts.body.choices).toEqual(plain.body.choices);
  });

  it("continues texts and token ids, several at once", async () => {
    const ids = await model.tokenize("the rest");
    const request = { model: "default", max_tokens: 6, temperature: 0, ignore_eos: true };
    const one = await server.ask("/v1/completions", { ...request, prompt: "the rest" });
    const direct = await model.generate("the rest", { maxTokens: 6, temperature: 0, ignoreEos: true }).result;
    expect(one.body.choices).toEqual([
      { index: 0, text: direct.text, logprobs: null, finish_reason: "length" },
    ]);
    const many = await server.ask("/v1/completions", { ...request, prompt: ["the rest", "of it"], n: 2 });
    const texts = many.body.choices.map(({ text }: { text: string }) => text);
    expect(texts).toHaveLength(4);
    expect(texts[0]).toBe(direct.text);
    expect(texts[1]).toBe(direct.text);
    const tokens = await server.ask("/v1/completions", { ...request, prompt: ids });
    expect(tokens.body.choices).toEqual(one.body.choices);
    const echoed = await server.ask("/v1/completions", {
      ...request,
      prompt: "the rest",
      echo: true,
      logprobs: 1,
    });
    expect(echoed.body.choices[0].text).toBe(`the rest${direct.text}`);
    expect(echoed.body.choices[0].logprobs.tokens).toHaveLength(6);
    expect(echoed.body.choices[0].logprobs.text_offset[0]).toBe("the rest".length);
    const streamed = await server.ask("/v1/completions", {
      ...request,
      prompt: "the rest",
      echo: true,
      stream: true,
    });
    const events = eventsOf(streamed.body).slice(0, -1) as { choices: [{ text: string }] }[];
    expect(events.map(({ choices }) => choices[0].text).join("")).toBe(`the rest${direct.text}`);
  });

  it("says what it serves", async () => {
    const { body } = await server.ask("/v1/models");
    expect(body.data).toMatchObject([
      { id: "tiny", object: "model", architecture: "llama", backend: "null" },
    ]);
    expect((await server.ask("/v1/models/default")).body.id).toBe("tiny");
    expect((await server.ask("/health")).body).toMatchObject({
      status: "ok",
      models: [{ id: "tiny", ok: true }],
    });
  });

  it("measures what it does", async () => {
    const fresh = serverOf({ tiny: model });
    await fresh.ask("/v1/chat/completions", chat);
    await fresh.ask("/v1/chat/completions", { ...chat, model: "none" });
    const { body } = await fresh.ask("/metrics");
    const value = (line: string) =>
      Number(new RegExp(`^${line.replace(/[{}]/g, "\\$&")} (.*)$`, "m").exec(body)?.[1]);
    expect(value('millrace_generated_tokens_total{model="tiny"}')).toBe(8);
    expect(value('millrace_answers_total{model="tiny",finish="length"}')).toBe(1);
    expect(value('millrace_time_to_first_token_seconds_count{model="tiny"}')).toBe(1);
    expect(value('millrace_time_per_output_token_seconds_count{model="tiny"}')).toBe(1);
    expect(value('millrace_http_requests_total{route="/v1/chat/completions",status="404"}')).toBe(1);
    expect(value('millrace_requests_running{model="tiny"}')).toBe(0);
    expect(value('millrace_cache_bytes{model="tiny"}')).toBeGreaterThan(0);
  });

  it("describes itself", async () => {
    const { body } = await server.ask("/openapi.json");
    expect(Object.keys(body.paths)).toEqual(
      expect.arrayContaining([
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/sessions",
        "/metrics",
      ]),
    );
    expect(body.components.schemas.ChatCompletionRequest.properties.max_completion_tokens).toBeDefined();
    // All of it: whatever a route answers is in the document, and every reference leads somewhere.
    for (const { method, path } of server.app.routes) {
      if (method === "ALL" || !path.startsWith("/v1/")) continue;
      const described = body.paths[path.replace(/:(\w+)/g, "{$1}")];
      expect([path, described && method.toLowerCase() in described]).toEqual([path, true]);
    }
    for (const [, name] of JSON.stringify(body).matchAll(/"#\/components\/schemas\/(\w+)"/g))
      expect(body.components.schemas[name!]).toBeDefined();
    const { oneOf } = body.components.schemas.SocketMessage;
    const typeOf = ({ properties }: { properties: { type: { enum: string[] } } }) => properties.type.enum;
    expect(oneOf.flatMap(typeOf)).toEqual(["append", "generate", "cancel", "watch"]);
  });

  it("has every figure named in its description", async () => {
    const figures = (await server.ask("/metrics")).body as string;
    const described = readFileSync("docs/server.md", "utf8");
    const families = [...figures.matchAll(/^# TYPE millrace_(\w+) /gm)].map(([, name]) => name);
    expect(families.length).toBeGreaterThan(20);
    for (const name of families) expect([name, described.includes(`\`${name}\``)]).toEqual([name, true]);
  });
});

const firstTokens = async (model: Model) =>
  (await model.generate(messages, { maxTokens: 1, temperature: 0, ignoreEos: true }).result).tokens;
