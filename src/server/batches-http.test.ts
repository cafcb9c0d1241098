/** Files and batches as the official client asks for them, over real HTTP. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { createServer, type ServerOptions } from "./create.js";
import { type Listening, listen } from "./serve.js";

/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 120_000;

describe("batches with the official client", { timeout: LONG }, () => {
  let model: Model;
  let root: string;
  let folders = 0;
  const listening: Listening[] = [];
  beforeAll(async () => {
    model = await openNull();
    root = await mkdtemp(join(tmpdir(), "millrace-batches-http-"));
  }, LONG);
  afterEach(async () => {
    for (const one of listening.splice(0)) await one.close(0);
  });
  afterAll(async () => {
    await model.close();
    await rm(root, { recursive: true });
  });

  async function serverWith(options: ServerOptions = {}) {
    const batchFolder = options.batchFolder ?? join(root, String(folders++));
    const server = createServer([{ name: "tiny", model }], { batchFolder, ...options });
    const one = await listen(server, { port: 0 });
    listening.push(one);
    const clientOf = (apiKey = "none") => new OpenAI({ apiKey, baseURL: `${one.url}/v1`, maxRetries: 0 });
    return { client: clientOf(), clientOf, url: one.url, batchFolder, server, close: () => one.close(0) };
  }

  const greedy = { model: "tiny", max_tokens: 4, temperature: 0, ignore_eos: true };
  const chat = (id: string, content: string, more: object = {}) => ({
    custom_id: id,
    method: "POST",
    url: "/v1/chat/completions",
    body: { ...greedy, messages: [{ role: "user", content }], ...more },
  });
  const fileOf = (lines: readonly object[], name = "in.jsonl") =>
    toFile(Buffer.from(lines.map((line) => JSON.stringify(line)).join("\n")), name);
  const finished = async (client: OpenAI, id: string) => {
    const status = async () => (await client.batches.retrieve(id)).status;
    await expect
      .poll(status, { timeout: LONG, interval: 20 })
      .toMatch(/^(completed|failed|cancelled|expired)$/);
    return client.batches.retrieve(id);
  };
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it as it is.
  const rowsOf = async (client: OpenAI, fileId: string | null | undefined): Promise<any[]> => {
    const text = await (await client.files.content(fileId!)).text();
    return text
      .split("\n")
      .slice(0, -1)
      .map((row) => JSON.parse(row));
  };

  it("uploads, lists, reads and deletes files", async () => {
    const { client } = await serverWith();
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 256));
    const file = await client.files.create({
      file: await toFile(bytes, "naïve.jsonl"),
      purpose: "batch",
      expires_after: { anchor: "created_at", seconds: 7200 },
    });
    expect(file).toMatchObject({
      object: "file",
      filename: "naïve.jsonl",
      bytes: bytes.length,
      purpose: "batch",
      status: "processed",
      expires_at: file.created_at + 7200,
    });
    expect(await client.files.retrieve(file.id)).toEqual(file);
    const response = await client.files.content(file.id);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "application/octet-stream",
      "x-content-type-options": "nosniff",
      "content-disposition": "attachment; filename*=UTF-8''na%C3%AFve.jsonl",
    });
    expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
    const ids = [file.id];
    for (let i = 0; i < 4; i++) {
      ids.push((await client.files.create({ file: await fileOf([], `${i}`), purpose: "batch" })).id);
    }
    const listed: string[] = [];
    for await (const { id } of client.files.list({ limit: 2, order: "asc" })) listed.push(id);
    expect(listed).toEqual(ids);
    expect((await client.files.list()).data.map(({ id }) => id)).toEqual(ids.reverse());
    expect((await client.files.list({ purpose: "batch_output" })).data).toEqual([]);
    expect(await client.files.delete(file.id)).toEqual({ id: file.id, object: "file", deleted: true });
    await expect(client.files.retrieve(file.id)).rejects.toThrow(OpenAI.NotFoundError);
  });

  it("says so where somebody took a file from its folder", async () => {
    const { client, batchFolder } = await serverWith();
    const file = await client.files.create({ file: await fileOf([], "x"), purpose: "batch" });
    await rm(batchFolder, { recursive: true });
    await expect(client.files.content(file.id)).rejects.toMatchObject({
      status: 404,
      code: "file_not_found",
    });
  });

  it("answers a batch as it would have been answered over HTTP, behind everybody else", async () => {
    const { client, server } = await serverWith();
    const file = await client.files.create({
      file: await fileOf([
        chat("one", "the rest"),
        chat("wrong", "the rest", { max_tokens: -1 }),
        chat("unknown", "the rest", { model: "gpt" }),
        chat("streamed", "the rest", { stream: true }),
        chat("urgent", "the rest", { priority: 100 }),
      ]),
      purpose: "batch",
    });
    const created = await client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
      metadata: { job: "nightly" },
      output_expires_after: { anchor: "created_at", seconds: 3600 },
    });
    expect(created).toMatchObject({ object: "batch", status: "validating", metadata: { job: "nightly" } });
    const batch = await finished(client, created.id);
    expect(batch).toMatchObject({
      status: "completed",
      request_counts: { total: 5, completed: 2, failed: 3 },
      usage: { output_tokens: 8 },
    });
    const live = await client.chat.completions.create({
      ...greedy,
      messages: [{ role: "user", content: "the rest" }],
    });
    const good = await rowsOf(client, batch.output_file_id);
    expect(good.map(({ custom_id }) => custom_id).sort()).toEqual(["one", "urgent"]);
    for (const { id, response, error } of good) {
      expect(id).toMatch(/^batch_req_\d$/);
      expect(response).toMatchObject({ status_code: 200, request_id: expect.stringMatching(/^req_/) });
      expect(response.body.choices).toEqual(live.choices);
      expect(error).toBeNull();
    }
    const bad = Object.fromEntries(
      (await rowsOf(client, batch.error_file_id)).map(({ custom_id, response }) => [
        custom_id,
        [response.status_code, response.body.error.param],
      ]),
    );
    expect(bad).toEqual({ wrong: [400, "max_tokens"], unknown: [404, "model"], streamed: [400, "stream"] });
    const output = await client.files.retrieve(batch.output_file_id!);
    expect(output.expires_at).toBe(output.created_at + 3600);
    expect(server.context.works.size).toBe(0);
    expect((await client.batches.list({ limit: 1 })).data).toEqual([batch]);
    expect((await client.files.delete(file.id)).deleted).toBe(true);
  });

  it("answers completions and responses", async () => {
    const { client } = await serverWith();
    const endpoints = {
      "/v1/completions": { ...greedy, prompt: "the rest" },
      "/v1/responses": { model: "tiny", input: "the rest", max_output_tokens: 4, ignore_eos: true },
    } as const;
    for (const [url, body] of Object.entries(endpoints)) {
      const lines = [{ custom_id: "a", method: "POST", url, body }];
      const file = await client.files.create({ file: await fileOf(lines), purpose: "batch" });
      const { id } = await client.batches.create({
        input_file_id: file.id,
        endpoint: url as keyof typeof endpoints,
        completion_window: "24h",
      });
      const batch = await finished(client, id);
      expect(batch.usage?.output_tokens).toBe(4);
      const [row] = await rowsOf(client, batch.output_file_id);
      expect(row.response.status_code).toBe(200);
    }
  });

  it("embeds, as the endpoint does", async () => {
    const { client } = await serverWith();
    const line = (custom_id: string, body: object) => ({
      custom_id,
      method: "POST",
      url: "/v1/embeddings",
      body: { model: "tiny", ...body },
    });
    const bodies: Readonly<Record<string, object>> = {
      text: { input: "the rest" },
      tokens: { input: [5, 6, 7], dimensions: 4 },
      several: { input: ["the rest", "of it"], encoding_format: "base64" },
      urgent: { input: [[5, 6], [7]], priority: 100, user: "ann" },
      empty: { input: [] },
      long: { input: Array.from({ length: 100_000 }, () => 5) },
      streamed: { input: "x", stream: true },
    };
    const file = await client.files.create({
      file: await fileOf(Object.entries(bodies).map(([id, body]) => line(id, body))),
      purpose: "batch",
    });
    const { id } = await client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/embeddings",
      completion_window: "24h",
    });
    const batch = await finished(client, id);
    expect(batch).toMatchObject({
      status: "completed",
      model: "tiny",
      request_counts: { total: 7, completed: 4, failed: 3 },
    });
    let tokens = 0;
    for (const { custom_id, response, error } of await rowsOf(client, batch.output_file_id)) {
      expect([response.status_code, error]).toEqual([200, null]);
      const live = await client.embeddings.create({
        model: "tiny",
        encoding_format: "float",
        ...bodies[custom_id],
      } as OpenAI.EmbeddingCreateParams);
      expect(response.body).toEqual(live);
      tokens += live.usage.total_tokens;
    }
    expect(batch.usage).toMatchObject({ input_tokens: tokens, output_tokens: 0, total_tokens: tokens });
    const bad = (await rowsOf(client, batch.error_file_id)).map(({ custom_id, response }) => [
      custom_id,
      response.status_code,
      response.body.error.code,
      response.body.error.param,
    ]);
    expect(bad.sort()).toEqual([
      ["empty", 400, "invalid_value", "input"],
      ["long", 400, "context_length_exceeded", null],
      ["streamed", 400, "invalid_value", "stream"],
    ]);
  });

  it("is cancelled, and what was answered is kept", async () => {
    const { client } = await serverWith();
    const lines = Array.from({ length: 150 }, (_, i) => chat(`id-${i}`, `${i}`, { max_tokens: 30 }));
    const file = await client.files.create({ file: await fileOf(lines), purpose: "batch" });
    const request = {
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    } as const;
    const { id } = await client.batches.create(request);
    const done = async () => (await client.batches.retrieve(id)).request_counts!.completed;
    await expect.poll(done, { timeout: LONG, interval: 5 }).toBeGreaterThan(3);
    await expect(client.files.delete(file.id)).rejects.toMatchObject({ status: 409, code: "file_in_use" });
    expect((await client.batches.cancel(id)).status).toBe("cancelling");
    const batch = await finished(client, id);
    expect(batch.status).toBe("cancelled");
    const [good, bad] = [
      await rowsOf(client, batch.output_file_id),
      await rowsOf(client, batch.error_file_id),
    ];
    expect(new Set([...good, ...bad].map(({ custom_id }) => custom_id)).size).toBe(150);
    expect(batch.request_counts).toEqual({ total: 150, completed: good.length, failed: bad.length });
    expect(bad.every(({ error }) => error.code === "batch_cancelled")).toBe(true);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
  });

  it("goes on when the server starts again", async () => {
    const first = await serverWith();
    const lines = Array.from({ length: 60 }, (_, i) => chat(`id-${i}`, `${i}`, { max_tokens: 30 }));
    const file = await first.client.files.create({ file: await fileOf(lines), purpose: "batch" });
    const { id } = await first.client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    });
    const done = async () => (await first.client.batches.retrieve(id)).request_counts!.completed;
    await expect.poll(done, { timeout: LONG, interval: 5 }).toBeGreaterThan(3);
    await first.close();
    const { client } = await serverWith({ batchFolder: first.batchFolder });
    const batch = await finished(client, id);
    expect(batch.request_counts).toEqual({ total: 60, completed: 60, failed: 0 });
    const ids = (await rowsOf(client, batch.output_file_id)).map(({ custom_id }) => custom_id);
    expect([ids.length, new Set(ids).size]).toEqual([60, 60]);
  });

  it("are their key's alone, and no key's limits on rates hold for them", async () => {
    const limits = { requestsPerMinute: 40, tokensPerMinute: 100_000 };
    const { clientOf } = await serverWith({ keys: ["a", "b"], limits });
    const [mine, theirs] = [clientOf("a"), clientOf("b")];
    const lines = Array.from({ length: 60 }, (_, i) => chat(`id-${i}`, "the rest"));
    const file = await mine.files.create({ file: await fileOf(lines), purpose: "batch" });
    const request = {
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    } as const;
    for (const attempt of [
      () => theirs.files.retrieve(file.id),
      () => theirs.files.content(file.id),
      () => theirs.files.delete(file.id),
      () => theirs.batches.create(request),
    ]) {
      await expect(attempt()).rejects.toMatchObject({ status: 404, code: "file_not_found" });
    }
    const { id } = await mine.batches.create(request);
    await expect(theirs.batches.retrieve(id)).rejects.toMatchObject({ status: 404, code: "batch_not_found" });
    await expect(theirs.batches.cancel(id)).rejects.toThrow(OpenAI.NotFoundError);
    expect((await theirs.batches.list()).data).toEqual([]);
    expect((await theirs.files.list()).data).toEqual([]);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const status = async () => (await mine.batches.retrieve(id)).request_counts!.completed;
    await expect.poll(status, { timeout: LONG, interval: 4000 }).toBe(60);
  });

  it("refuses what is too large, hostile or wrong, and keeps nothing of it", async () => {
    const { client, url } = await serverWith({ limits: { fileBytes: 50_000 } });
    const large = client.files.create({ file: await toFile(Buffer.alloc(5_000_000), "x"), purpose: "batch" });
    await expect(large).rejects.toMatchObject({ status: 413, code: "file_too_large" });
    // Without a length that could be looked at first.
    const form = new FormData();
    form.append("file", new File([Buffer.alloc(60_000)], "x"));
    form.append("purpose", "batch");
    const { headers, body } = new Response(form);
    const streamed = await fetch(`${url}/v1/files`, {
      method: "POST",
      headers,
      body,
      duplex: "half",
    } as RequestInit);
    expect([streamed.status, ((await streamed.json()) as { error: { code: string } }).error.code]).toEqual([
      413,
      "file_too_large",
    ]);
    const small = await fileOf([chat("a", "x")]);
    await expect(client.files.create({ file: small, purpose: "user_data" })).rejects.toMatchObject({
      status: 400,
      param: "purpose",
    });
    const post = async (fields: Record<string, string | File>) => {
      const data = new FormData();
      for (const [name, value] of Object.entries(fields)) data.append(name, value);
      const response = await fetch(`${url}/v1/files`, { method: "POST", body: data });
      return ((await response.json()) as { error: { code: string; param: string } }).error;
    };
    expect(await post({ purpose: "batch" })).toMatchObject({
      code: "missing_required_parameter",
      param: "file",
    });
    expect(await post({ file: small })).toMatchObject({
      code: "missing_required_parameter",
      param: "purpose",
    });
    expect(await post({ file: small, purpose: "batch", path: "/etc" })).toMatchObject({
      code: "unknown_parameter",
    });
    expect(await post({ file: small, purpose: "batch", __proto__x: "1" })).toMatchObject({
      code: "unknown_parameter",
    });
    expect(await post({ file: small, purpose: "batch", "expires_after[seconds]": "5" })).toMatchObject({
      param: expect.stringContaining("expires_after"),
    });
    const json = await fetch(`${url}/v1/files`, {
      method: "POST",
      body: "{}",
      headers: { "Content-Type": "application/json" },
    });
    expect(json.status).toBe(415);
    for (const id of ["../x", "..%2f..%2fetc%2fpasswd", "file-", "a\u0000", "x".repeat(5000)]) {
      for (const path of [
        `/v1/files/${encodeURIComponent(id)}`,
        `/v1/files/${encodeURIComponent(id)}/content`,
      ]) {
        expect((await fetch(`${url}${path}`)).status).toBe(404);
      }
    }
    expect((await client.files.list()).data).toEqual([]);
    const kept = await client.files.create({ file: small, purpose: "batch" });
    for (const more of [
      { endpoint: "/v1/files" },
      { completion_window: "0h" },
      { completion_window: "721h" },
      { metadata: { x: "y".repeat(600) } },
      { input_file_id: "file-0" },
      { other: 1 },
    ]) {
      const request = {
        input_file_id: kept.id,
        endpoint: "/v1/chat/completions",
        completion_window: "24h",
        ...more,
      };
      const asked = client.batches.create(request as never);
      await expect(asked).rejects.toMatchObject({
        status: expect.any(Number),
        type: "invalid_request_error",
      });
    }
    await expect(client.batches.list({ after: "x" })).rejects.toMatchObject({ param: "after" });
    expect((await client.batches.list()).data).toEqual([]);
  });

  it("are off where the server has no folder for them", async () => {
    const server = serverOf({ tiny: model });
    for (const path of ["/v1/files", "/v1/batches", "/v1/files/x", "/v1/batches/x"]) {
      expect((await server.ask(path)).body.error).toMatchObject({ code: "saving_off" });
    }
  });
});
