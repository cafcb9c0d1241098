import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import { openNull } from "../../test/support/local-thread.js";
import { asker } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { Session } from "../session/session.js";
import { createServer, type Server } from "./create.js";
import { KeyRing } from "./keys.js";
import { type Listening, listen } from "./serve.js";

describe("a session over a socket", () => {
  let model: Model;
  let server: Server;
  let listening: Listening;
  beforeAll(async () => {
    model = await openNull();
    server = createServer([{ name: "tiny", model }], { keys: ["right"] });
    listening = await listen(server, { port: 0 });
  });
  afterAll(async () => {
    await listening.close(0);
    await model.close();
  });

  const ask = asker((path, init) =>
    fetch(`${listening.url}${path}`, {
      ...init,
      headers: { ...init.headers, Authorization: "Bearer right" },
    }),
  );
  const opened = async (): Promise<string> =>
    (await ask("/v1/sessions", { model: "tiny", cache: { policy: "window", tokens: 32 } })).body.id;
  const connect = (id: string, options = {}) =>
    new WebSocket(
      `${listening.url.replace("http", "ws")}/v1/sessions/${id}/socket`,
      ["millrace", "key.right"],
      options,
    );

  /** Messages as they come, one at a time. */
  function reader(socket: WebSocket) {
    const came: Record<string, unknown>[] = [];
    socket.on("message", (data) => came.push(JSON.parse(String(data))));
    return async (type: string) => {
      let found: Record<string, unknown> | undefined;
      await expect
        .poll(() => {
          found = came.find((message) => message.type === type);
          return found?.type;
        })
        .toBe(type);
      came.splice(0, came.indexOf(found!) + 1);
      return found!;
    };
  }
  const say = (socket: WebSocket, message: unknown) =>
    socket.send(typeof message === "string" ? message : JSON.stringify(message));

  it("takes text in while an answer comes out, and tells what the cache does", async () => {
    const id = await opened();
    const socket = connect(id);
    await once(socket, "open");
    const next = reader(socket);
    say(socket, { type: "watch" });
    say(socket, { type: "append", id: 1, input: "the rest" });
    expect(await next("appended")).toMatchObject({ id: 1, tokens: expect.any(Number) });
    say(socket, { type: "generate", id: "endless", max_tokens: "inf", ignore_eos: true });
    await next("piece");
    say(socket, { type: "append", id: 2, input: "of it" });
    expect(await next("appended")).toMatchObject({ id: 2 });
    expect(await next("change")).toMatchObject({ change: { kind: "drop" } });
    await next("piece");
    say(socket, { type: "generate", id: 3 });
    expect(await next("error")).toMatchObject({ id: 3, error: { code: "busy" } });
    say(socket, { type: "cancel" });
    expect(await next("cancelled")).toMatchObject({ id: "endless" });
    say(socket, { type: "generate", id: 4, max_tokens: 5, ignore_eos: true });
    expect(await next("answer")).toMatchObject({
      id: 4,
      finish_reason: "length",
      usage: { completion_tokens: 5 },
    });
    socket.close();
    await expect.poll(() => server.context.works.size).toBe(0);
  });

  it("stands among others by its key, and by the priority and deadline of each message", async () => {
    const socket = connect(await opened());
    await once(socket, "open");
    const next = reader(socket);
    const client = new KeyRing(["right"]).client("Bearer right");
    const appends = vi.spyOn(Session.prototype, "append");
    const answers = vi.spyOn(Session.prototype, "generate");
    say(socket, { type: "append", id: 1, input: "the rest", priority: 3, deadline: "1 min" });
    await next("appended");
    say(socket, {
      type: "generate",
      id: 2,
      max_tokens: "inf",
      ignore_eos: true,
      priority: -3,
      deadline: 200,
    });
    expect(await next("answer")).toMatchObject({ id: 2, finish_reason: "deadline" });
    expect(appends.mock.calls[0]![1]).toMatchObject({ client, priority: 3, deadline: "1 min" });
    expect(answers.mock.calls[0]![0]).toMatchObject({ client, priority: -3, deadline: 200 });
    for (const spy of [appends, answers]) spy.mockRestore();
    say(socket, { type: "append", id: 3, input: "x", deadline: "soon" });
    expect(await next("error")).toMatchObject({ id: 3, error: { code: "invalid_value", param: "deadline" } });
    socket.close();
  });

  it("refuses what is no message, and goes on", async () => {
    const socket = connect(await opened());
    await once(socket, "open");
    const next = reader(socket);
    for (const wrong of [
      "{",
      "[]",
      '"x"',
      "null",
      '{"type":"dance"}',
      '{"type":"append"}',
      '{"type":"append","input":5}',
    ]) {
      say(socket, wrong);
      expect(await next("error")).toMatchObject({ error: { type: "invalid_request_error" } });
    }
    socket.send(new Uint8Array([1, 2, 3]));
    expect(await next("error")).toMatchObject({ error: { code: "invalid_json" } });
    say(socket, { type: "append", input: "still here" });
    await next("appended");
    socket.close();
  });

  it("lets in nobody without a key, and no page of another origin", async () => {
    const id = await opened();
    const refused = async (socket: WebSocket) => {
      const [error] = await once(socket, "error").catch((cause: unknown) => [cause]);
      return (error as Error).message;
    };
    const url = `${listening.url.replace("http", "ws")}/v1/sessions/${id}/socket`;
    expect(await refused(new WebSocket(url))).toContain("401");
    expect(await refused(connect(id, { origin: "https://elsewhere.example" }))).toContain("403");
    expect(await refused(connect("sess_none"))).toContain("404");
    expect((await ask(`/v1/sessions/${id}/socket`)).status).toBe(426);
    const same = connect(id, { origin: listening.url });
    await once(same, "open");
    same.close();
  });

  it("stops an endless answer when its reader goes", async () => {
    const id = await opened();
    const socket = connect(id);
    await once(socket, "open");
    const next = reader(socket);
    say(socket, { type: "append", input: "the rest" });
    say(socket, { type: "generate", max_tokens: "inf", ignore_eos: true });
    await next("piece");
    socket.terminate();
    await expect.poll(() => server.context.works.size).toBe(0);
    const after = await ask(`/v1/sessions/${id}/generate`, { max_tokens: 2, ignore_eos: true });
    expect(after.status).toBe(200);
  });

  it("closes idle sockets when the server comes to rest", async () => {
    const own = createServer([{ name: "tiny", model }]);
    const there = await listen(own, { port: 0 });
    const askOwn = asker((path, init) => fetch(`${there.url}${path}`, init));
    const { id } = (await askOwn("/v1/sessions", { model: "tiny" })).body;
    const socket = new WebSocket(`${there.url.replace("http", "ws")}/v1/sessions/${id}/socket`);
    await once(socket, "open");
    const closed = once(socket, "close");
    expect(await there.close(60_000)).toBe(0);
    expect((await closed)[0]).toBe(1001);
  });
});
