/** What is no request, or never becomes one: said over bare connections, and answered in the shape of all errors. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { openNull } from "../../test/support/local-thread.js";
import { pick } from "../../test/support/malformed.js";
import { TestRandom } from "../../test/support/random.js";
import { asker } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { createHttp } from "./connections.js";
import { createServer, type Server } from "./create.js";
import { type Listening, listen } from "./serve.js";

/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 120_000;

describe("connections", { timeout: LONG }, () => {
  let model: Model;
  let server: Server;
  let listening: Listening;
  beforeAll(async () => {
    model = await openNull();
    server = createServer([{ name: "tiny", model }]);
    listening = await listen(server, { port: 0 });
  });
  afterAll(async () => {
    await listening.close(0);
    await model.close();
  });

  /** Sends `bytes` and takes what comes until the other end closes. */
  const say = async (bytes: string | Buffer, port = listening.port): Promise<string> => {
    const socket = connect(port, "127.0.0.1");
    let got = "";
    socket.on("data", (data) => {
      got += data.toString("latin1");
    });
    socket.on("error", () => {});
    socket.write(bytes);
    await once(socket, "close");
    return got;
  };
  const errorOf = (answer: string) => {
    const status = Number(/^HTTP\/1\.1 (\d+) [A-Z]/.exec(answer)?.[1]);
    const at = answer.indexOf('{"error"');
    return { status, ...JSON.parse(answer.slice(at, answer.lastIndexOf("}") + 1)).error };
  };
  const END = "Connection: close\r\n\r\n";
  const get = (...lines: string[]) =>
    `GET /health HTTP/1.1\r\n${lines.map((one) => `${one}\r\n`).join("")}${END}`;
  const upgrade = (path: string, ...lines: string[]) =>
    `GET ${path} HTTP/1.1\r\n${lines.map((one) => `${one}\r\n`).join("")}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n`;

  it.each<[string, string, number, string]>([
    ["a Host with a blank", get("Host: a b"), 400, "invalid_url"],
    ["a Host with a path", get("Host: a/b"), 400, "invalid_url"],
    ["half an IPv6 address as Host", get("Host: [::1"), 400, "invalid_url"],
    ["a Host with a port that is none", get("Host: x:99999"), 400, "invalid_url"],
    ["an empty Host", get("Host:"), 400, "invalid_url"],
    ["no Host", get(), 400, "invalid_url"],
    ["a backslash in the path", `GET /v1\\x HTTP/1.1\r\nHost: x\r\n${END}`, 400, "invalid_url"],
    ["an asterisk for a path", `OPTIONS * HTTP/1.1\r\nHost: x\r\n${END}`, 400, "invalid_url"],
    ["a proxy's path without a name", `GET http:// HTTP/1.1\r\nHost: x\r\n${END}`, 400, "invalid_url"],
    ["headers without end", get("Host: x", `X: ${"y".repeat(200_000)}`), 431, "headers_too_large"],
    ["no HTTP", "\u0000\u0001 nonsense\r\n\r\n", 400, "malformed_request"],
    ["TLS", "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc", 400, "malformed_request"],
    ["a header without a name", get("Host: x", ": y"), 400, "malformed_request"],
    [
      "two lengths",
      `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}`,
      400,
      "malformed_request",
    ],
    [
      "a chunk whose length is none",
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      400,
      "malformed_request",
    ],
    [
      "chunks with endless extensions",
      `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1;${"x".repeat(50_000)}\r\n`,
      413,
      "body_too_large",
    ],
    ["an expectation that nobody knows", get("Host: x", "Expect: cake"), 417, "expectation_failed"],
    ["a proxy's request", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"],
    [
      "a WebSocket for a Host that is none",
      upgrade("/v1/sessions/x/socket", "Host: a/b"),
      400,
      "invalid_url",
    ],
    [
      "a WebSocket where there is no session",
      upgrade("/v1/sessions/x/socket", "Host: x"),
      404,
      "session_not_found",
    ],
    ["a WebSocket where there is nothing", upgrade("/v1/nothing", "Host: x"), 404, "unknown_url"],
  ])("%s: an error in OpenAI's shape", async (_, bytes, status, code) => {
    const error = errorOf(await say(bytes));
    expect(error).toMatchObject({ status, code, type: "invalid_request_error" });
    expect(error.message).toMatch(/\w/);
  });

  it("says when a request takes too long to arrive", async () => {
    const { http } = createHttp(server.app, 100);
    // As Node.js does it; its clock looks every half minute only.
    const late = Object.assign(new Error("late"), { code: "ERR_HTTP_REQUEST_TIMEOUT" });
    http.on("connection", (socket) => socket.once("data", () => http.emit("clientError", late, socket)));
    http.listen(0);
    await once(http, "listening");
    const { port } = http.address() as { port: number };
    expect(errorOf(await say("GET / HTTP/1.1\r\n", port))).toMatchObject({
      status: 408,
      code: "request_timeout",
    });
    http.close();
  });

  it("says nothing in the middle of an answer", async () => {
    const body = JSON.stringify({
      model: "tiny",
      prompt: "x",
      max_tokens: 400,
      ignore_eos: true,
      stream: true,
    });
    const head = `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
    const socket = connect(listening.port, "127.0.0.1");
    let got = "";
    socket.on("error", () => {});
    socket.on("data", (data) => {
      if (got === "") socket.write("\u0000\u0001 nonsense\r\n\r\n");
      got += data.toString("latin1");
    });
    socket.write(head + body);
    await once(socket, "close");
    expect(got).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(got).not.toContain("malformed_request");
    await expect.poll(() => server.context.works.size).toBe(0);
  });

  it("leaves other protocols aside, and answers the request", async () => {
    const offer = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ\r\n";
    const answer = await say(
      `GET /health HTTP/1.1\r\nHost: x\r\n${offer.replace("Upgrade,", "close, Upgrade,")}\r\n`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    // A body that comes in several parts, and a second request behind it.
    const text = "x".repeat(200_000);
    const body = JSON.stringify({ text });
    const whole = `POST /v1/models/tiny/tokenize HTTP/1.1\r\nHost: x\r\n${offer}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const both = await say(`${whole}GET /health HTTP/1.1\r\nHost: x\r\n${END}`);
    expect(both.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(2);
    const tokens = /"tokens":\[([\d,]+)\]/.exec(both)![1]!.split(",").length;
    expect(tokens).toBe((await model.tokenize(text)).length);
  });

  it("makes no WebSocket of a handshake that is none", async () => {
    const id = await opened();
    const path = `/v1/sessions/${id}/socket`;
    for (const lines of [
      [],
      ["Sec-WebSocket-Version: 13"],
      ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"],
      ["Sec-WebSocket-Version: 7", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
      [
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: a,,b",
      ],
    ]) {
      const answer = await say(upgrade(path, "Host: x", ...lines));
      expect(errorOf(answer)).toMatchObject({ status: 400, code: "bad_handshake" });
      expect(answer).toContain("Sec-WebSocket-Version: 13");
    }
    expect(server.context.works.size).toBe(0);
  });

  const opened = async (url = listening.url): Promise<string> => {
    const ask = asker((path, init) => fetch(`${url}${path}`, init));
    return (await ask("/v1/sessions", { model: "tiny", cache: { policy: "window", tokens: 32 } })).body.id;
  };
  /** The other end of a WebSocket that says nothing any more. */
  const mute = async (id: string, port: number): Promise<Socket> => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    socket.write(upgrade(`/v1/sessions/${id}/socket`, "Host: x", "Sec-WebSocket-Version: 13", key));
    const [head] = (await once(socket, "data")) as [Buffer];
    expect(head.toString()).toMatch(/^HTTP\/1\.1 101 .*X-Request-Id: req_/s);
    socket.resume();
    return socket;
  };

  it("lets go of WebSockets whose other end went without a word, and of no others", async () => {
    const own = createServer([{ name: "tiny", model }], { limits: { pingMs: 1000 } });
    const there = await listen(own, { port: 0 });
    const id = await opened(there.url);
    const alive = new WebSocket(`${there.url.replace("http", "ws")}/v1/sessions/${id}/socket`);
    await once(alive, "open");
    let pings = 0;
    alive.on("ping", () => pings++);
    const gone = await mute(id, there.port);
    expect(own.context.works.size).toBe(2);
    await once(gone, "close");
    await expect.poll(() => own.context.works.size, { timeout: LONG }).toBe(1);
    await expect.poll(() => pings, { timeout: LONG }).toBeGreaterThan(2);
    expect(alive.readyState).toBe(WebSocket.OPEN);
    alive.close();
    await there.close(0);
  });

  // A WebSocket waits 30 seconds for its other end.
  it("waits for no WebSocket that is not closed at its other end", { timeout: 20_000 }, async () => {
    const own = createServer([{ name: "tiny", model }]);
    const there = await listen(own, { port: 0 });
    const gone = await mute(await opened(there.url), there.port);
    const closed = once(gone, "close");
    expect(await there.close(LONG)).toBe(0);
    await closed;
  });

  it("survives thousands of requests that were damaged on their way", async () => {
    const body = JSON.stringify({ model: "tiny", prompt: "x", max_tokens: 1 });
    const whole = Buffer.from(
      `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n${END}${body}`,
    );
    const head = whole.length - body.length;
    const random = new TestRandom(31);
    const damaged = (): Buffer => {
      const bytes = Buffer.from(whole);
      const at = random.below(head - 4);
      switch (random.below(4)) {
        case 0:
          bytes[at] = random.below(256);
          return bytes;
        case 1:
          return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(20))]);
        case 2:
          return Buffer.concat([
            bytes.subarray(0, at),
            Buffer.from(
              pick(random, ["\r\n", "\n", "\u0000", ":", " ", "\u00ff", "\r\n\r\n", "Host: y\r\n"]),
              "latin1",
            ),
            bytes.subarray(at),
          ]);
        default:
          return Buffer.from(Array.from({ length: 1 + random.below(200) }, () => random.below(256)));
      }
    };
    const handles = () => process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;
    const before = handles();
    let refused = 0;
    const one = async () => {
      const bytes = damaged();
      const socket = connect(listening.port, "127.0.0.1");
      socket.on("error", () => {});
      let got = "";
      socket.on("data", (data) => {
        got += data.toString("latin1");
      });
      // What is missing never comes.
      socket.end(bytes);
      await once(socket, "close");
      if (got === "" || got.startsWith("HTTP/1.1 200")) return;
      const { status, code, type, message } = errorOf(got.slice(0, got.lastIndexOf("}") + 1));
      if (status < 400 || status >= 500 || !code || type !== "invalid_request_error" || !message)
        expect.fail(`${JSON.stringify(bytes.toString("latin1"))}: ${got}`);
      refused++;
    };
    for (let i = 0; i < 100; i++) await Promise.all(Array.from({ length: 20 }, one));
    expect(refused).toBeGreaterThan(1000);
    await expect.poll(() => server.context.works.size).toBe(0);
    await expect.poll(handles).toBeLessThanOrEqual(before);
    const { status } = await fetch(`${listening.url}/health`);
    expect(status).toBe(200);
  });
});
