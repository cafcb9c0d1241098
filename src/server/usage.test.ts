import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

describe("usage, as the official client's types have it", () => {
  let model: Model;
  let client: OpenAI;
  let ask: ReturnType<typeof serverOf>["ask"];
  beforeAll(async () => {
    model = await openNull();
    const server = serverOf({ tiny: model });
    ({ ask } = server);
    client = new OpenAI({
      apiKey: "none",
      baseURL: "http://localhost/v1",
      maxRetries: 0,
      fetch: async (url, init) => server.app.request(String(url), init as RequestInit),
    });
  });
  afterAll(() => model.close());

  const length = { max_tokens: 5, ...{ ignore_eos: true } };
  /** What the API says of a prompt of so many tokens, and an answer of 5. */
  const usageOf = (prompt: number, cached: number, kept = prompt - cached): OpenAI.CompletionUsage => ({
    prompt_tokens: prompt,
    completion_tokens: 5,
    total_tokens: prompt + 5,
    prompt_tokens_details: { cached_tokens: cached, cache_write_tokens: kept, text_tokens: prompt },
    completion_tokens_details: { text_tokens: 5 },
  });

  it("tells what of a prompt was kept, and what was there, whole and streamed", async () => {
    const prompt = Array.from({ length: 40 }, (_, i) => 20 + i);
    const request = { model: "tiny", prompt, ...length };
    expect((await client.completions.create(request)).usage).toEqual(usageOf(40, 0));
    expect((await client.completions.create(request)).usage).toEqual(usageOf(40, 39));
    const stream = await client.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    const told: unknown[] = [];
    for await (const { usage } of stream) if (usage) told.push(usage);
    expect(told).toEqual([usageOf(40, 39)]);
  });

  it("counts a prompt once for all of its answers", async () => {
    const messages = [{ role: "user" as const, content: "one of a kind" }];
    const { usage } = await client.chat.completions.create({ model: "tiny", messages, n: 3, ...length });
    const prompt = usage!.prompt_tokens;
    expect(usage).toMatchObject({
      completion_tokens: 15,
      total_tokens: prompt + 15,
      prompt_tokens_details: { text_tokens: prompt },
      completion_tokens_details: { text_tokens: 15 },
    });
    const { cached_tokens: cached, cache_write_tokens: kept } = usage!.prompt_tokens_details!;
    expect(cached! + kept!).toBe(prompt);
  });

  it("has every figure that responses demand", async () => {
    const request = { model: "tiny", input: "not asked before", max_output_tokens: 5, ...length };
    const { max_tokens: _, ...asked } = request;
    const first = (await client.responses.create(asked)).usage!;
    const want = (cached: number): OpenAI.Responses.ResponseUsage => ({
      input_tokens: first.input_tokens,
      input_tokens_details: {
        cached_tokens: cached,
        cache_write_tokens: first.input_tokens - cached,
      },
      output_tokens: 5,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: first.input_tokens + 5,
    });
    expect(first).toEqual(want(first.input_tokens_details.cached_tokens));
    expect((await client.responses.create(asked)).usage).toEqual(want(first.input_tokens - 1));
  });

  it("keeps nothing of a session's tokens for others", async () => {
    const { id } = (await ask("/v1/sessions", { model: "tiny" })).body;
    await ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const { usage } = (await ask(`/v1/sessions/${id}/generate`, length)).body;
    // What was appended before has run, save for its last token.
    expect(usage).toEqual(usageOf(1, 0, 0));
  });

  it("is zero of what is kept where prefixes are not", async () => {
    const alone = await openNull({ prefixCache: false });
    const server = serverOf({ alone });
    const request = { model: "alone", prompt: [5, 6, 7], ...length };
    expect((await server.ask("/v1/completions", request)).body.usage).toEqual(usageOf(3, 0, 0));
    await alone.close();
  });
});
