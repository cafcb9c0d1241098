import { APICallError, InvalidArgumentError } from "@ai-sdk/provider";
import { cosineSimilarity, embed, embedMany } from "ai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openLocal } from "../../test/support/open-local.js";
import { MillraceError } from "../errors.js";
import { boxedModelPath } from "../formats/boxed.js";
import type { Model } from "../session/model.js";
import { asV3, millraceEmbedding } from "./index.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

let model: Model;
beforeAll(async () => {
  model = await openLocal({}, boxedModelPath("boxed:harbour-small")!);
});
afterAll(() => model.close());

const heron = "The Grey Heron came in from Oban with salt.";

describe("embed and embedMany with the small model in the box", () => {
  it("give what the model gives, with the tokens that it took", async () => {
    const want = await model.embed(heron);
    const got = await embed({ model: millraceEmbedding(model), value: heron });
    expect(got.embedding).toEqual([...want.vector]);
    expect(got.usage.tokens).toBe(want.numTokens);
    expect(got.warnings).toEqual([]);
    expect(cosineSimilarity(got.embedding, got.embedding)).toBeCloseTo(1, 5);
  });

  it("embed a list of any length in one call, in its order", async () => {
    const values = Array.from({ length: 12 }, (_, i) => `${i} boats lay in the harbour.`);
    const calls: number[] = [];
    const counted = new Proxy(model, {
      get: (of, key) => {
        if (key !== "embed") return Reflect.get(of, key);
        return (inputs: readonly string[], options: object) => {
          calls.push(inputs.length);
          return of.embed(inputs, options);
        };
      },
    });
    const want = await model.embed(values);
    const got = await embedMany({ model: millraceEmbedding(counted), values });
    expect(calls).toEqual([12]);
    expect(got.embeddings).toEqual(want.map(({ vector }) => [...vector]));
    expect(got.usage.tokens).toBe(want.reduce((sum, { numTokens }) => sum + numTokens, 0));
    expect((await embedMany({ model: millraceEmbedding(model), values: [] })).embeddings).toEqual([]);
  });

  it("take the model's own options", async () => {
    const millrace = { pooling: "mean", normalize: false, dimensions: 8, priority: 3, deadline: "5 min" };
    const want = await model.embed(heron, { pooling: "mean", normalize: false, dimensions: 8 });
    const got = await embed({
      model: millraceEmbedding(model),
      value: heron,
      providerOptions: { millrace },
    });
    expect(got.embedding).toEqual([...want.vector]);
    expect(got.embedding).toHaveLength(8);
    const four = await embed({ model: millraceEmbedding(model), value: heron, dimensions: 4 });
    expect(four.embedding).toEqual([...(await model.embed(heron, { dimensions: 4 })).vector]);
  });

  it("throw the SDK's errors", async () => {
    const embedder = millraceEmbedding(model);
    const wrong = (millrace: Record<string, never>) =>
      embed({ model: embedder, value: heron, providerOptions: { millrace } }).catch((error) => error);
    const unknown = await wrong({ colour: "red" as never });
    expect(InvalidArgumentError.isInstance(unknown)).toBe(true);
    expect(unknown.message).toContain("pooling");
    const wide = await wrong({ dimensions: 1e6 as never });
    expect(APICallError.isInstance(wide)).toBe(true);
    expect(wide.isRetryable).toBe(false);
    expect(wide.cause).toBeInstanceOf(MillraceError);
    expect(wide.cause.code).toBe("INVALID_ARGUMENT");
    const long = await embed({ model: embedder, value: `${heron} `.repeat(5000) }).catch((error) => error);
    expect(long.cause.code).toBe("PROMPT_TOO_LONG");
    expect(JSON.stringify(long.requestBodyValues)).not.toContain("Heron");
  });

  it("end with the caller's signal, and free what they held", async () => {
    const abort = new AbortController();
    const values = Array.from({ length: 200 }, (_, i) => `${heron} ${i}`);
    const embedding = embedMany({ model: millraceEmbedding(model), values, abortSignal: abort.signal });
    setImmediate(() => abort.abort());
    await expect(embedding).rejects.toMatchObject({ name: "AbortError" });
    await expect.poll(async () => (await model.usage()).running).toBe(0);
  });

  it("speak the specification before this one", async () => {
    const got = await embed({ model: asV3(millraceEmbedding(model)), value: heron });
    expect(got.embedding).toEqual([...(await model.embed(heron)).vector]);
  });
});
