import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { KeyRing, parseKeys } from "./keys.js";
import { nameOfSource } from "./models.js";
import { RateLimit } from "./rate-limit.js";

describe("who may ask, and how much", () => {
  let model: Model;
  beforeAll(async () => {
    model = await openNull();
  });
  afterAll(() => model.close());

  const request = { model: "tiny", prompt: "the rest", max_tokens: 4, ignore_eos: true };
  const bearer = (key: string) => ({ headers: { Authorization: `Bearer ${key}` } });

  it("asks for a key, but for health and the document", async () => {
    const server = serverOf({ tiny: model }, { keys: ["right", "also-right"] });
    for (const path of ["/v1/models", "/metrics"]) {
      const { status, headers, body } = await server.ask(path);
      expect([status, body.error.code, body.error.type]).toEqual([
        401,
        "invalid_api_key",
        "authentication_error",
      ]);
      expect(headers.get("www-authenticate")).toBe("Bearer");
    }
    expect((await server.ask("/v1/models", undefined, bearer("wrong"))).status).toBe(401);
    expect((await server.ask("/v1/models", undefined, bearer("right"))).status).toBe(200);
    expect((await server.ask("/v1/models", undefined, bearer("also-right"))).status).toBe(200);
    expect((await server.ask("/health")).status).toBe(200);
    expect((await server.ask("/openapi.json")).status).toBe(200);
    const error = (await server.ask("/v1/models", undefined, bearer("right x"))).body.error;
    expect(JSON.stringify(error)).not.toContain("right");
  });

  it("names clients by keys that it does not keep", () => {
    const ring = new KeyRing(["a-key", "b-key"]);
    expect(ring.client("Bearer a-key")).toBe(ring.client("bearer  a-key"));
    expect(ring.client("Bearer a-key")).not.toBe(ring.client("Bearer b-key"));
    expect(parseKeys("# ours\none\n\n two \r\n")).toEqual(["one", "two"]);
  });

  it("keeps the rate of requests, by key", async () => {
    const server = serverOf({ tiny: model }, { keys: ["a", "b"], limits: { requestsPerMinute: 2 } });
    const statuses: number[] = [];
    for (let i = 0; i < 3; i++)
      statuses.push((await server.ask("/v1/models", undefined, bearer("a"))).status);
    expect(statuses).toEqual([200, 200, 429]);
    const { headers, body } = await server.ask("/v1/models", undefined, bearer("a"));
    expect(body.error).toMatchObject({ code: "rate_limit_exceeded", type: "rate_limit_error" });
    expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
    expect(headers.get("x-ratelimit-limit-requests")).toBe("2");
    expect((await server.ask("/v1/models", undefined, bearer("b"))).status).toBe(200);
  });

  it("keeps the rate of tokens, which are known afterwards", async () => {
    const server = serverOf({ tiny: model }, { limits: { tokensPerMinute: 5 } });
    const first = await server.ask("/v1/completions", request);
    expect(first.status).toBe(200);
    expect(first.body.usage.total_tokens).toBeGreaterThan(5);
    expect((await server.ask("/v1/completions", request)).status).toBe(429);
  });

  it("fills buckets as time goes by", () => {
    let now = 0;
    const limit = new RateLimit("requests", 60, () => now);
    limit.use("a", 60);
    expect(() => limit.check("a")).toThrow(/try again in 1 s/);
    now += 1000;
    limit.check("a");
    expect(() => limit.check("a", 2)).toThrow("60 requests");
    now += 1e9;
    expect(limit.headers("a")).toEqual({
      "x-ratelimit-limit-requests": "60",
      "x-ratelimit-remaining-requests": "60",
    });
  });

  it("takes so many requests at once", async () => {
    const server = serverOf({ tiny: model }, { limits: { requests: 1 } });
    const [one, two] = await Promise.all([
      server.ask("/v1/completions", { ...request, max_tokens: 100 }),
      server.ask("/v1/completions", request),
    ]);
    expect([one.status, two.status]).toEqual([200, 503]);
    expect(two.body.error.code).toBe("overloaded");
    expect((await server.ask("/v1/completions", request)).status).toBe(200);
  });

  it("ends what takes too long, and frees its pages", async () => {
    const server = serverOf({ tiny: model }, { limits: { requestMs: 30 } });
    const long = { ...request, prompt: Array(400).fill(5), max_tokens: 100, n: 8 };
    const { status, body } = await server.ask("/v1/completions", long);
    expect([status, body.error.code]).toEqual([504, "timeout"]);
    await expect.poll(async () => (await model.usage()).running).toBe(0);
    expect(server.context.works.size).toBe(0);
  });

  it("lets pages of other origins ask only where it is told to", async () => {
    const origin = { headers: { Origin: "https://page.example" } };
    const closed = await serverOf({ tiny: model }).ask("/v1/models", undefined, origin);
    expect(closed.headers.get("access-control-allow-origin")).toBeNull();
    const open = serverOf({ tiny: model }, { origins: ["https://page.example"], keys: ["k"] });
    const preflight = await open.ask("/v1/chat/completions", undefined, { ...origin, method: "OPTIONS" });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe("https://page.example");
    const other = await open.ask("/v1/models", undefined, { headers: { Origin: "https://other.example" } });
    expect(other.headers.get("access-control-allow-origin")).toBeNull();
  });

  it("goes by its own names only, where it has been given some", async () => {
    const server = serverOf({ tiny: model }, { hosts: ["localhost"] });
    expect((await server.ask("/v1/models")).status).toBe(200);
    const { status, body } = await server.ask("http://evil.example/v1/models");
    expect([status, body.error.code]).toEqual([403, "unknown_host"]);
  });

  it("logs requests without what was asked, unless told to", async () => {
    const lines: string[] = [];
    const logger = pino({}, { write: (line: string) => lines.push(line) });
    await serverOf({ tiny: model }, { logger }).ask("/v1/completions", { ...request, prompt: "a secret" });
    expect(JSON.parse(lines[0]!)).toMatchObject({
      request: expect.stringMatching(/^req_/),
      method: "POST",
      path: "/v1/completions",
      status: 200,
      model: "tiny",
      generatedTokens: 4,
      finish: "length",
    });
    expect(lines.join()).not.toContain("a secret");
    await serverOf({ tiny: model }, { logger, logPrompts: true }).ask("/v1/completions", {
      ...request,
      prompt: "a secret",
    });
    expect(lines.at(-1)).toContain("a secret");
  });

  it("names models by their sources", () => {
    expect(
      [
        "a/b.gguf",
        "boxed:harbour-small",
        "hf:owner/repo",
        "hf:owner/repo/x.gguf",
        "folder/",
        "m.safetensors",
      ].map(nameOfSource),
    ).toEqual(["b", "harbour-small", "repo", "repo", "folder", "m"]);
  });
});
