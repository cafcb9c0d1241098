import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { eventsOf, serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { Session } from "../session/session.js";
import { KeyRing } from "./keys.js";

describe("sessions over HTTP", () => {
  let model: Model;
  let folder: string;
  beforeAll(async () => {
    model = await openNull();
    folder = await mkdtemp(join(tmpdir(), "millrace-served-"));
  });
  afterAll(async () => {
    await model.close();
    await rm(folder, { recursive: true });
  });

  const cache = { policy: "sinks", window: 32, sinks: 4 };
  const opened = async (server: ReturnType<typeof serverOf>, more: object = {}) => {
    const { status, body } = await server.ask("/v1/sessions", { model: "tiny", cache, ...more });
    expect(body.error).toBeUndefined();
    expect(status).toBe(200);
    return body.id as string;
  };
  const greedy = { max_tokens: 8, temperature: 0, ignore_eos: true };

  it("live on between requests, and tell what was dropped", async () => {
    const server = serverOf({ tiny: model });
    const id = await opened(server);
    const tokens = Array.from({ length: 100 }, (_, i) => 10 + (i % 50));
    const appended = await server.ask(`/v1/sessions/${id}/append`, { input: tokens });
    expect(appended.body).toMatchObject({ object: "session.appended", tokens: 100 });
    const { status, body } = await server.ask(`/v1/sessions/${id}/generate`, greedy);
    expect(status).toBe(200);
    expect(body.usage.completion_tokens).toBe(8);
    const { seen, kept, merged, demoted, dropped } = body.report;
    expect(seen).toBe(kept + merged + demoted + dropped);
    expect(dropped).toBeGreaterThan(50);
    const told = body.usage.cache_details.dropped_tokens + (appended.body.report.dropped as number);
    expect(told).toBe(dropped);
    const inspected = await server.ask(`/v1/sessions/${id}`);
    expect(inspected.body).toMatchObject({ id, model: "tiny", report: body.report, capacity: null });
    expect(inspected.body.groups[0].policy).toContain("sinks");
    const metrics = (await server.ask("/metrics")).body as string;
    expect(metrics).toContain(`millrace_evicted_tokens_total{model="tiny",fate="dropped"} ${dropped}`);
    expect(metrics).toContain("millrace_sessions 1");
    expect((await server.ask(`/v1/sessions/${id}`, undefined, { method: "DELETE" })).body.deleted).toBe(true);
    expect((await server.ask(`/v1/sessions/${id}`)).status).toBe(404);
  });

  it("fork, rewind, save and restore to the same answer", async () => {
    const server = serverOf({ tiny: model }, { sessionFolder: folder });
    const id = await opened(server, { memory: "1 MiB" });
    await server.ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const fork = (await server.ask(`/v1/sessions/${id}/fork`, {}, { method: "POST" })).body.id as string;
    const saved = await server.ask(`/v1/sessions/${id}/save`, { name: "one" });
    expect(saved.body).toMatchObject({ object: "session.saved", name: "one", bytes: expect.any(Number) });
    const restored = (await server.ask("/v1/sessions/restore", { model: "tiny", name: "one" })).body
      .id as string;
    const texts = await Promise.all(
      [id, fork, restored].map(
        async (one) => (await server.ask(`/v1/sessions/${one}/generate`, greedy)).body.text,
      ),
    );
    expect(texts[0]).not.toBe("");
    expect(texts).toEqual([texts[0], texts[0], texts[0]]);
    expect((await server.ask("/v1/sessions/saved")).body.data).toMatchObject([{ name: "one" }]);
    expect((await server.ask("/v1/sessions")).body.data).toHaveLength(3);
    const rewound = await server.ask(`/v1/sessions/${id}/rewind`, { to: 2 });
    expect(rewound.body).toMatchObject({ object: "session.rewound", result: "exact" });
    const forgotten = await server.ask("/v1/sessions/saved/one", undefined, { method: "DELETE" });
    expect(forgotten.body.deleted).toBe(true);
    expect((await server.ask("/v1/sessions/restore", { model: "tiny", name: "one" })).body.error.code).toBe(
      "saved_session_not_found",
    );
    await server.context.sessions.closeAll();
  });

  it("stream, and end when their reader goes", async () => {
    const server = serverOf({ tiny: model });
    const id = await opened(server);
    await server.ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const response = await server.app.request(`/v1/sessions/${id}/generate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ max_tokens: "inf", ignore_eos: true, stream: true }),
    });
    const reader = response.body!.getReader();
    let text = "";
    while (text.length < 20_000) text += new TextDecoder().decode((await reader.read()).value);
    expect(text).toContain('"object":"session.piece"');
    expect(server.context.works.size).toBe(1);
    await reader.cancel();
    expect(server.context.works.size).toBe(0);
    const after = await server.ask(`/v1/sessions/${id}/generate`, greedy);
    expect(after.status).toBe(200);
    await server.context.sessions.closeAll();
  });

  it("go on with an answer that was under way when they were saved, and take nothing else for it", async () => {
    const server = serverOf({ tiny: model }, { sessionFolder: folder });
    const id = await opened(server);
    const generate = (session: string, body: object) => server.ask(`/v1/sessions/${session}/generate`, body);
    await server.ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const textOf = (events: string): string =>
      eventsOf(events)
        .map((event) => (event as { text?: string }).text ?? "")
        .join("");
    const answer = await server.app.request(`/v1/sessions/${id}/generate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ max_tokens: 3000, ignore_eos: true, seed: 3, stream: true }),
    });
    const reader = answer.body!.getReader();
    // It stands still while nobody reads.
    let whole = new TextDecoder().decode((await reader.read()).value);
    await server.ask(`/v1/sessions/${id}/save`, { name: "under-way" });
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read())
      whole += new TextDecoder().decode(value);
    const restore = async () =>
      (await server.ask("/v1/sessions/restore", { model: "tiny", name: "under-way" })).body;
    const copy = await restore();
    expect(copy.unfinished).toBe(true);
    for (const [param, value] of Object.entries({
      max_tokens: 5,
      temperature: 0,
      stop: "x",
      seed: 0,
      ignore_eos: false,
      tools: [],
      response_format: { type: "text" },
    })) {
      const { status, body } = await generate(copy.id, { resume: true, [param]: value });
      expect([status, body.error.code, body.error.param]).toEqual([400, "invalid_value", param]);
    }
    const resumed = await generate(copy.id, { resume: true, stream: true, temperature: null, priority: 1 });
    expect(resumed.status).toBe(200);
    expect(textOf(resumed.body)).not.toBe("");
    expect(textOf(whole).endsWith(textOf(resumed.body))).toBe(true);
    const again = await generate(copy.id, { resume: true });
    expect(again.status).toBe(400);
    await server.context.sessions.closeAll();
  });

  it("answer one request at a time, and say so", async () => {
    const server = serverOf({ tiny: model });
    const id = await opened(server);
    await server.ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const answer = await server.app.request(`/v1/sessions/${id}/generate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ max_tokens: "inf", ignore_eos: true, stream: true }),
    });
    for (const stream of [false, true]) {
      const { status, body } = await server.ask(`/v1/sessions/${id}/generate`, { ...greedy, stream });
      expect([status, body.error.code]).toEqual([409, "busy"]);
    }
    await answer.body!.cancel();
    expect((await server.ask(`/v1/sessions/${id}/generate`, greedy)).status).toBe(200);
    // What is refused takes nobody's turn.
    expect((await server.ask(`/v1/sessions/${id}/generate`, { max_tokens: "inf" })).status).toBe(400);
    const refused = await server.ask(`/v1/sessions/${id}/generate`, { resume: true, stream: true });
    expect(refused.status).toBe(400);
    expect((await server.ask(`/v1/sessions/${id}/generate`, greedy)).status).toBe(200);
    await server.context.sessions.closeAll();
  });

  it("stand among others by their client, priority and deadline", async () => {
    const server = serverOf({ tiny: model }, { keys: ["mine"] });
    const asMe = { headers: { Authorization: "Bearer mine" } };
    const { id } = (await server.ask("/v1/sessions", { model: "tiny", cache }, asMe)).body;
    const call = (name: string, body: object) => server.ask(`/v1/sessions/${id}/${name}`, body, asMe);
    const client = new KeyRing(["mine"]).client("Bearer mine");
    const appends = vi.spyOn(Session.prototype, "append");
    const answers = vi.spyOn(Session.prototype, "generate");
    const resumed = vi.spyOn(Session.prototype, "resume");
    await call("append", { input: "the rest", priority: -7, deadline: "1 min" });
    await call("append", { input: [{ role: "user", content: "x" }], priority: 0, deadline: null });
    await call("generate", { ...greedy, priority: 5, deadline: 60_000 });
    await call("generate", { resume: true, priority: 6 });
    expect(appends.mock.calls.map(([, options]) => options)).toMatchObject([
      { client, priority: -7, deadline: "1 min" },
      { client, priority: 0, chat: {} },
    ]);
    expect(appends.mock.calls[1]![1]).not.toHaveProperty("deadline");
    expect(answers.mock.calls).toMatchObject([[{ client, priority: 5, deadline: 60_000, maxTokens: 8 }]]);
    expect(resumed.mock.calls).toMatchObject([[{ client, priority: 6 }]]);
    for (const spy of [appends, answers, resumed]) spy.mockRestore();
    const { schemas } = (await server.ask("/openapi.json")).body.components;
    for (const { properties } of [schemas.Append, schemas.Generate]) {
      expect(properties).toMatchObject({
        priority: { minimum: -100, maximum: 100 },
        deadline: { example: "30s" },
      });
      expect(properties).not.toHaveProperty("client");
    }
    const wrong: [object, string][] = [
      [{ priority: 101 }, "priority"],
      [{ priority: 0.5 }, "priority"],
      [{ deadline: 0 }, "deadline"],
      [{ deadline: "soon" }, "deadline"],
      [{ deadline: [] }, "deadline"],
      [{ client: "somebody" }, "client"],
    ];
    for (const [fields, param] of wrong) {
      for (const [name, body] of [
        ["append", { input: "x" }],
        ["generate", greedy],
      ] as const) {
        const { status, body: told } = await call(name, { ...body, ...fields });
        expect([status, told.error.param]).toEqual([400, param]);
      }
    }
    await server.context.sessions.closeAll();
  });

  it("end an answer, and an append that waits, at their deadline", async () => {
    const server = serverOf({ tiny: model });
    const id = await opened(server);
    const late = await server.ask(`/v1/sessions/${id}/append`, { input: "the rest", deadline: 1e-6 });
    expect([late.status, late.body.error.code]).toEqual([504, "deadline_passed"]);
    const { taken, tokens } = late.body.error.details;
    expect(taken).toBeLessThan(tokens);
    await server.ask(`/v1/sessions/${id}/append`, { input: "the rest" });
    const { body } = await server.ask(`/v1/sessions/${id}/generate`, {
      max_tokens: 1_000_000_000,
      ignore_eos: true,
      deadline: "200 ms",
    });
    expect([body.object, body.finish_reason]).toEqual(["session.answer", "deadline"]);
    const plain = await server.ask("/v1/completions", { model: "tiny", prompt: "x", deadline: 1e-6 });
    expect([plain.status, plain.body.error.code]).toEqual([504, "deadline_passed"]);
    await server.context.sessions.closeAll();
  });

  it("take conversations", async () => {
    const server = serverOf({ tiny: model });
    const id = await opened(server);
    const input = [{ role: "user", content: "the rest" }];
    expect((await server.ask(`/v1/sessions/${id}/append`, { input })).status).toBe(200);
    expect((await server.ask(`/v1/sessions/${id}/generate`, greedy)).body.usage.completion_tokens).toBe(8);
    const { body } = await server.ask(`/v1/sessions/${id}/append`, { input: "x", tools: [] });
    expect(body.error).toMatchObject({ code: "invalid_value", param: "tools" });
    await server.context.sessions.closeAll();
  });

  it("are their owner's alone", async () => {
    const server = serverOf({ tiny: model }, { keys: ["a", "b"], sessionFolder: folder });
    const as = (key: string) => ({ headers: { Authorization: `Bearer ${key}` } });
    const mine = (await server.ask("/v1/sessions", { model: "tiny", cache }, as("a"))).body.id as string;
    await server.ask(`/v1/sessions/${mine}/append`, { input: "the rest" }, as("a"));
    await server.ask(`/v1/sessions/${mine}/save`, { name: "mine" }, as("a"));
    expect((await server.ask(`/v1/sessions/${mine}`, undefined, as("b"))).status).toBe(404);
    expect((await server.ask("/v1/sessions", undefined, as("b"))).body.data).toEqual([]);
    expect((await server.ask("/v1/sessions/saved", undefined, as("b"))).body.data).toEqual([]);
    const theirs = await server.ask("/v1/sessions/restore", { model: "tiny", name: "mine" }, as("b"));
    expect(theirs.body.error.code).toBe("saved_session_not_found");
    await server.context.sessions.closeAll();
  });

  it("go to no path but their own", async () => {
    const server = serverOf({ tiny: model }, { sessionFolder: folder });
    const id = await opened(server);
    const tricks = [
      "../x",
      "..",
      "a/b",
      "a\\b",
      "/etc/passwd",
      "a\u0000b",
      "",
      ".hidden",
      "a.b",
      "x".repeat(65),
      "ü",
    ];
    for (const name of tricks) {
      for (const path of [`/v1/sessions/${id}/save`, "/v1/sessions/restore"]) {
        const { status, body } = await server.ask(path, { model: "tiny", name });
        expect([status, body.error.type]).toEqual([400, "invalid_request_error"]);
      }
      const deleted = await server.ask(`/v1/sessions/saved/${encodeURIComponent(name)}`, undefined, {
        method: "DELETE",
      });
      expect(deleted.status).toBeGreaterThanOrEqual(400);
    }
    const { body } = await server.ask("/v1/sessions", {
      model: "tiny",
      cache,
      recall: { disk: "1 MiB", dir: "/tmp" },
    });
    expect(body.error).toMatchObject({ code: "unknown_parameter", param: "recall.dir" });
    await server.context.sessions.closeAll();
  });

  it("are few, small, and closed when idle", async () => {
    const limits = { sessions: 1, sessionBytes: 2 ** 20, sessionDiskBytes: 2 ** 20, sessionIdleMs: 40 };
    const server = serverOf({ tiny: model }, { limits });
    const large = await server.ask("/v1/sessions", { model: "tiny", cache, memory: "2 MiB" });
    expect(large.body.error).toMatchObject({ code: "limit_exceeded", param: "memory" });
    const full = await server.ask("/v1/sessions", { model: "tiny", cache, recall: { disk: "1 GiB" } });
    expect(full.body.error).toMatchObject({ code: "limit_exceeded", param: "recall.disk" });
    const wrong = await server.ask("/v1/sessions", { model: "tiny", cache: { policy: "nonsense" } });
    expect(wrong.status).toBe(400);
    await opened(server);
    const second = await server.ask("/v1/sessions", { model: "tiny", cache });
    expect([second.status, second.body.error.code]).toEqual([503, "too_many_sessions"]);
    await expect.poll(() => server.context.sessions.size).toBe(0);
  });
});
