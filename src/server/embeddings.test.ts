import OpenAI, { BadRequestError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openTiny } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

describe("embeddings, by the official client", () => {
  let model: Model;
  let server: ReturnType<typeof serverOf>;
  let client: OpenAI;
  beforeAll(async () => {
    model = await openTiny();
    server = serverOf({ tiny: model });
    client = new OpenAI({
      apiKey: "none",
      baseURL: "http://localhost/v1",
      maxRetries: 0,
      fetch: async (url, init) => server.app.request(String(url), init),
    });
  });
  afterAll(() => model.close());

  const numbers = (vector: Float32Array) => [...vector];

  it("gives what the model gives, as floats and as base64, which the client asks for by itself", async () => {
    const direct = await model.embed("the rest");
    const request = { model: "tiny", input: "the rest" };
    const asked = await client.embeddings.create(request);
    expect(asked).toMatchObject({
      object: "list",
      model: "tiny",
      data: [{ object: "embedding", index: 0, embedding: numbers(direct.vector) }],
      usage: { prompt_tokens: direct.numTokens, total_tokens: direct.numTokens },
    });
    const floats = await client.embeddings.create({ ...request, encoding_format: "float" });
    expect(floats.data).toEqual(asked.data);
    const { body } = await server.ask("/v1/embeddings", { ...request, encoding_format: "base64" });
    const bytes = Buffer.from(body.data[0].embedding, "base64");
    expect(bytes).toHaveLength(4 * 64);
    expect(bytes.readFloatLE(12)).toBe(direct.vector[3]);
  });

  it.each([
    ["texts", ["the rest", "of it", "the rest"]],
    ["token ids", [5, 6, 7]],
    ["lists of token ids", [[5, 6, 7], [8]]],
  ])("takes %s", async (_, input) => {
    const isOne = typeof input[0] === "number";
    const direct = await model.embed((isOne ? [input] : input) as string[]);
    const { data, usage } = await client.embeddings.create({ model: "default", input: input as string[] });
    expect(data.map(({ index }) => index)).toEqual(direct.map((_, index) => index));
    expect(data.map(({ embedding }) => embedding)).toEqual(direct.map(({ vector }) => numbers(vector)));
    expect(usage.prompt_tokens).toBe(direct.reduce((sum, { numTokens }) => sum + numTokens, 0));
  });

  it("cuts to `dimensions`, and pools and scales as asked", async () => {
    const request = { model: "tiny", input: "the rest of it" };
    const short = await client.embeddings.create({ ...request, dimensions: 16 });
    const direct = await model.embed(request.input, { dimensions: 16 });
    expect(short.data[0]!.embedding).toEqual(numbers(direct.vector));
    const raw = { pooling: "mean", normalize: false } as const;
    const { body } = await server.ask("/v1/embeddings", { ...request, ...raw });
    expect(body.data[0].embedding).toEqual(numbers((await model.embed(request.input, raw)).vector));
  });

  it.each([
    ["more dimensions than there are", { dimensions: 65 }, "invalid_value", "dimensions"],
    ["no text", { input: "" }, "invalid_value", "input"],
    ["no texts", { input: [] }, "invalid_value", "input"],
    ["too many texts", { input: Array(2049).fill("x") }, "invalid_value", "input"],
    ["no input", { input: undefined }, "missing_required_parameter", "input"],
    ["another encoding", { encoding_format: "hex" }, "invalid_value", "encoding_format"],
    ["an unknown field", { inputs: "x" }, "unknown_parameter", "inputs"],
    ["a token that is not there", { input: [[5], [320]] }, "invalid_token", null],
  ])("refuses %s", async (_, wrong, code, param) => {
    const request = { model: "tiny", input: "x", ...wrong } as OpenAI.EmbeddingCreateParams;
    const error = await client.embeddings.create(request).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error).toMatchObject({ status: 400, code, param });
  });

  it("refuses a text that is too long, with the numbers", async () => {
    const { status, body } = await server.ask("/v1/embeddings", {
      model: "tiny",
      input: [[5], Array(600).fill(5)],
    });
    expect(status).toBe(400);
    expect(body.error).toMatchObject({
      code: "context_length_exceeded",
      message: expect.stringContaining("Input 1 has 600 tokens and the context holds 512"),
      details: { tokens: 600, context: 512, input: 1 },
    });
  });

  it("ends when its client has gone, and frees what it held", async () => {
    const gone = new AbortController();
    const input = Array.from({ length: 200 }, () => Array(40).fill(5));
    const asked = client.embeddings.create({ model: "tiny", input }, { signal: gone.signal });
    setTimeout(() => gone.abort(), 20);
    await expect(asked).rejects.toThrow();
    await expect.poll(async () => (await model.usage()).running).toBe(0);
    expect(await model.usage()).toMatchObject({ used: 0, waiting: 0 });
  });

  it("counts for metrics and for the rate of tokens", async () => {
    const other = serverOf({ tiny: model }, { limits: { tokensPerMinute: 10 } });
    const request = {
      model: "tiny",
      input: [
        [5, 6, 7, 8, 9, 10],
        [5, 6, 7, 8, 9, 10],
      ],
    };
    expect((await other.ask("/v1/embeddings", request)).status).toBe(200);
    expect((await other.ask("/v1/embeddings", request)).status).toBe(429);
    const { body } = await other.ask("/metrics");
    expect(body).toContain('millrace_embeddings_total{model="tiny"} 2');
    expect(body).toContain('millrace_prompt_tokens_total{model="tiny"} 12');
  });

  it("stands in the API's document", async () => {
    const { body } = await server.ask("/openapi.json");
    const { properties, required } = body.components.schemas.EmbeddingRequest;
    expect(Object.keys(properties)).toEqual(
      expect.arrayContaining(["model", "input", "encoding_format", "dimensions", "user"]),
    );
    expect(required).toEqual(["model", "input"]);
    expect(body.paths["/v1/embeddings"].post.responses["200"]).toBeDefined();
  });
});
