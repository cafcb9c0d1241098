/** The real client over real HTTP, on the model in the box. */
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import OpenAI from "openai";
import pino from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { localThread, openNull } from "../../test/support/local-thread.js";
import { loadModel } from "../engine/load.js";
import { openOn, openParameters } from "../engine/open.js";
import { boxedModelPath, DEFAULT_MODEL } from "../formats/boxed.js";
import { type Model, makeModel } from "../session/model.js";
import { createServer, type Server } from "./create.js";
import { type Listening, listen } from "./serve.js";

/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 120_000;

describe("the official client", { timeout: LONG }, () => {
  let model: Model;
  let server: Server;
  let listening: Listening;
  let client: OpenAI;
  beforeAll(async () => {
    // In this very thread: a worker would need a build.
    const parameters = openParameters(boxedModelPath(DEFAULT_MODEL)!, {});
    model = await openOn(localThread(loadModel), parameters, {}, makeModel);
    server = createServer([{ name: "harbour", model }], { keys: ["right"] });
    listening = await listen(server, { port: 0 });
    client = new OpenAI({ apiKey: "right", baseURL: `${listening.url}/v1`, maxRetries: 0 });
  }, LONG);
  afterAll(async () => {
    await listening.close(0);
    await model.close();
  });

  const messages = [{ role: "user" as const, content: "Where does Ada Brook live?" }];
  const greedy = { model: "default", messages, max_tokens: 12, temperature: 0 };

  it("lists models", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(["harbour"]);
    expect((await client.models.retrieve("default")).id).toBe("harbour");
  });

  it("chats, whole and streamed, to the same text as in process", async () => {
    const direct = await model.generate(messages, { maxTokens: 12, temperature: 0 }).result;
    const whole = await client.chat.completions.create(greedy);
    expect(whole.choices[0]!.message.content).toBe(direct.text);
    expect(whole.usage).toMatchObject({
      prompt_tokens: direct.usage.promptTokens,
      completion_tokens: direct.usage.generatedTokens,
    });
    expect(whole._request_id).toMatch(/^req_/);
    const stream = await client.chat.completions.create({
      ...greedy,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe(direct.text);
    expect(usage).toMatchObject({ completion_tokens: direct.usage.generatedTokens });
  });

  it("lets go of a stream that was read to its end", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const { works } = server.context;
    const begin = works.begin.bind(works);
    const begun: WeakRef<object>[] = [];
    works.begin = (...what) => {
      const work = begin(...what);
      begun.push(new WeakRef(work));
      return work;
    };
    for (let i = 0; i < 20; i++) {
      const stream = await client.chat.completions.create({ ...greedy, max_tokens: 1, stream: true });
      for await (const _ of stream);
    }
    works.begin = begin;
    await setTimeout(50);
    collect();
    // The last ones may still stand on some stack.
    expect(begun.filter((work) => work.deref() !== undefined).length).toBeLessThan(5);
    expect(begun.length).toBe(20);
  });

  it("completes text, with log-probabilities", async () => {
    const { choices } = await client.completions.create({
      model: "harbour",
      prompt: "The harbour",
      max_tokens: 5,
      temperature: 0,
      logprobs: 2,
    });
    expect(choices[0]!.logprobs!.tokens!.join("").trim()).toBe(choices[0]!.text.trim());
    expect(Object.keys(choices[0]!.logprobs!.top_logprobs![0]!)).toHaveLength(2);
  });

  it("throws its own errors for ours", async () => {
    await expect(client.chat.completions.create({ ...greedy, model: "none" })).rejects.toThrow(
      OpenAI.NotFoundError,
    );
    await expect(client.chat.completions.create({ ...greedy, temperature: 9 })).rejects.toMatchObject({
      status: 400,
      code: "invalid_value",
      param: "temperature",
      type: "invalid_request_error",
    });
    const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${listening.url}/v1`, maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
    const prompt = "harbour ".repeat(20_000);
    await expect(client.completions.create({ model: "harbour", prompt })).rejects.toMatchObject({
      status: 400,
      code: "context_length_exceeded",
    });
  });

  it("frees what a reader held who goes in the middle", async () => {
    const stream = await client.completions.create({
      model: "harbour",
      prompt: "The harbour",
      max_tokens: 2000,
      temperature: 1,
      stream: true,
      // @ts-expect-error: one of ours.
      ignore_eos: true,
    });
    for await (const _ of stream) break;
    await expect.poll(() => server.context.works.size, { timeout: LONG }).toBe(0);
    await expect.poll(async () => (await model.usage()).running, { timeout: LONG }).toBe(0);
    const abort = new AbortController();
    const whole = client.completions.create(
      { model: "harbour", prompt: "The harbour", max_tokens: 4000, ...{ ignore_eos: true } },
      { signal: abort.signal },
    );
    whole.catch(() => {});
    await expect.poll(() => server.context.works.size, { timeout: LONG }).toBe(1);
    abort.abort();
    await expect(whole).rejects.toThrow(OpenAI.APIUserAbortError);
    await expect.poll(() => server.context.works.size, { timeout: LONG }).toBe(0);
    await expect.poll(async () => (await model.usage()).running, { timeout: LONG }).toBe(0);
  });

  it("answers many at once", async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => client.chat.completions.create({ ...greedy, max_tokens: 6 })),
    );
    expect(new Set(answers.map(({ choices }) => choices[0]!.message.content)).size).toBe(1);
  });
});

describe("a server that listens", { timeout: LONG }, () => {
  let model: Model;
  beforeAll(async () => {
    model = await openNull();
  });
  afterAll(() => model.close());

  const request = { model: "tiny", prompt: "the rest", max_tokens: 400, ignore_eos: true, stream: true };
  const start = async (limits: object = {}) => {
    const server = createServer([{ name: "tiny", model }], { limits });
    return { server, listening: await listen(server, { port: 0 }) };
  };
  const post = (url: string, body: unknown) =>
    fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });

  it("holds back for a slow reader, and forgets one that goes", async () => {
    const { server, listening } = await start();
    const socket = connect(listening.port, "127.0.0.1");
    const body = JSON.stringify({ ...request, n: 16, logprobs: 20 });
    socket.pause();
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await expect.poll(() => server.context.works.size).toBe(1);
    socket.destroy();
    await expect.poll(() => server.context.works.size, { timeout: LONG }).toBe(0);
    await expect.poll(async () => (await model.usage()).running, { timeout: LONG }).toBe(0);
    await listening.close(0);
  });

  it("logs no failure of its own for a client that goes in the middle of its body", async () => {
    const lines: { path?: string; level: number }[] = [];
    const logger = pino({}, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const server = createServer([{ name: "tiny", model }], { logger });
    const listening = await listen(server, { port: 0 });
    const socket = connect(listening.port, "127.0.0.1");
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"mod',
    );
    await expect.poll(() => server.context.works.size).toBe(1);
    socket.destroy();
    await expect.poll(() => lines.length, { timeout: LONG }).toBe(1);
    expect(lines[0]).toMatchObject({ level: 30, path: "/v1/completions", ended: "client_closed" });
    await listening.close(0);
  });

  it("lets what is under way come to its end, and begins nothing new", async () => {
    const { server, listening } = await start();
    const response = await post(listening.url, request);
    const closing = listening.close(LONG);
    expect(server.context.works.draining).toBe(true);
    const text = await response.text();
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(await closing).toBe(0);
    await expect(fetch(listening.url)).rejects.toThrow();
  });

  it("cuts short what takes longer than it may wait, and says so", async () => {
    const { listening } = await start();
    const response = await post(listening.url, { ...request, n: 16 });
    const closing = listening.close(1);
    const text = await response.text();
    expect(text).toContain('"code":"shutting_down"');
    expect(await closing).toBe(1);
  });

  it("says that a port is taken", async () => {
    const { server, listening } = await start();
    await expect(listen(server, { port: listening.port })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("another --port"),
    });
    await listening.close(0);
  });

  it("survives what is no HTTP", async () => {
    const { listening } = await start();
    const socket = connect(listening.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.end("\u0000\u0001 nonsense\r\n\r\n");
    socket.resume();
    await once(socket, "close");
    const response = await fetch(`${listening.url}/health`);
    expect(response.status).toBe(200);
    await response.text();
    await listening.close(0);
  });
});
