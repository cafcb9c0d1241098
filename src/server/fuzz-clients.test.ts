/** Thousands of clients that are wrong, go in the middle, or do not read: each is told why while it listens, and nothing is left of it. */
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { expectRefused, pick } from "../../test/support/malformed.js";
import { TestRandom } from "../../test/support/random.js";
import { asker } from "../../test/support/server.js";
import type { Model } from "../session/model.js";
import { createServer, type Server } from "./create.js";
import { type Listening, listen } from "./serve.js";

const EACH = 1000;
/** Of a person's patience with the slowest machine, in milliseconds. */
const LONG = 300_000;
const PATIENT = { interval: 5, timeout: LONG };
const KEY = "right-0123456789";

describe("clients that are wrong", { timeout: LONG }, () => {
  let model: Model;
  let server: Server;
  let listening: Listening;
  let handlesBefore = 0;
  beforeAll(async () => {
    model = await openNull();
    server = createServer([{ name: "tiny", model }], { keys: [KEY] });
    listening = await listen(server, { port: 0 });
    handlesBefore = handles();
  });
  afterAll(async () => {
    await listening.close(0);
    await model.close();
  });

  const handles = () => process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;
  const headers = { Authorization: `Bearer ${KEY}` };
  const ask = asker((path, init) =>
    server.app.request(path, { ...init, headers: { ...headers, ...init.headers } }),
  );
  const completion = { model: "tiny", prompt: "x", max_tokens: 1 };
  const requests: Readonly<Record<string, object>> = {
    "/v1/chat/completions": { model: "tiny", messages: [{ role: "user", content: "x" }], max_tokens: 1 },
    "/v1/completions": completion,
    "/v1/responses": { model: "tiny", input: "x", max_output_tokens: 1 },
    "/v1/embeddings": { model: "tiny", input: "x" },
  };
  const paths = Object.keys(requests);

  it("keys that are none", async () => {
    const random = new TestRandom(61);
    const bare = asker((path, init) => server.app.request(path, init));
    for (let i = 0; i < EACH; i++) {
      const at = random.below(KEY.length);
      const authorization = pick(random, [
        "",
        KEY,
        "Bearer",
        `Basic ${KEY}`,
        `Bearer ${KEY}x`,
        `Bearer ${KEY} ${KEY}`,
        `Bearer ${KEY.slice(0, at)}`,
        `Bearer ${KEY.slice(0, at)}\u00e9${KEY.slice(at + 1)}`,
        `Bearer ${KEY.toUpperCase()}`,
        `Bearer ${"x".repeat(random.below(5000))}`,
        `Bearer ${KEY},Bearer ${KEY}`,
      ]);
      const path = pick(random, [
        ...paths,
        "/v1/models",
        "/v1/sessions",
        "/metrics",
        "/v1/nothing",
        "/v1/live",
      ]);
      const protocol = pick(random, [{}, { "Sec-WebSocket-Protocol": `millrace, key.${KEY}x` }]);
      const sent = { headers: { ...(authorization === "" ? protocol : { Authorization: authorization }) } };
      const asked = await bare(path, requests[path], sent);
      expectRefused(asked, () => [path, authorization]);
      if (asked.status !== 401 || asked.body.error.code !== "invalid_api_key")
        expect.fail(`${authorization}: ${asked.status}`);
      if (JSON.stringify(asked.body).includes(KEY.slice(0, 8)))
        expect.fail("the key is told to who has none");
    }
  });

  it("models that are not there", async () => {
    const random = new TestRandom(62);
    const names = [
      "",
      "Tiny",
      "tiny ",
      "../tiny",
      "__proto__",
      "constructor",
      "toString",
      "\u0000",
      "x".repeat(5000),
      "default/tiny",
    ];
    for (let i = 0; i < EACH; i++) {
      const path = pick(random, [...paths, "/v1/sessions", "/v1/sessions/restore"]);
      const body = {
        ...(requests[path] ?? (path.endsWith("restore") ? { name: "x" } : {})),
        model: pick(random, names),
      };
      const asked = await ask(path, body);
      expectRefused(asked, () => [path, body]);
      if (asked.status !== 404 || asked.body.error.code !== "model_not_found")
        expect.fail(`${JSON.stringify(body).slice(0, 200)}: ${asked.status} ${JSON.stringify(asked.body)}`);
    }
  });

  it("prompts that are too long, with the numbers", async () => {
    const random = new TestRandom(63);
    for (let i = 0; i < EACH; i++) {
      const length = 513 + random.below(2000);
      const ids = Array(length).fill(5);
      const [path, body] = pick(random, [
        ["/v1/completions", { ...completion, prompt: ids }],
        ["/v1/completions", { ...completion, prompt: [[5], ids] }],
        ["/v1/embeddings", { model: "tiny", input: [[5], ids] }],
        [
          "/v1/chat/completions",
          { model: "tiny", messages: [{ role: "user", content: "x ".repeat(length) }] },
        ],
        ["/v1/responses", { model: "tiny", input: "x ".repeat(length), stream: true }],
      ]);
      const { status, body: answer } = await ask(path as string, body);
      const { code, details } = answer.error;
      if (
        status !== 400 ||
        code !== "context_length_exceeded" ||
        details.context !== 512 ||
        details.tokens < length
      )
        expect.fail(`${path}, ${length}: ${status} ${JSON.stringify(answer)}`);
    }
  });

  it("fields of wrong types to the newer endpoints", async () => {
    const random = new TestRandom(64);
    const wrong: Readonly<Record<string, Readonly<Record<string, readonly unknown[]>>>> = {
      "/v1/responses": {
        input: [
          null,
          5,
          {},
          [5],
          [{}],
          [{ role: "x", content: "" }],
          [{ type: "function_call" }],
          [{ type: "image" }],
        ],
        instructions: [5, [], {}],
        max_output_tokens: ["5", 0, -1, 1.5],
        temperature: ["1", -1, 9, []],
        text: [5, { format: 5 }, { format: { type: "xml" } }, { format: { type: "json_schema" } }],
        tools: ["x", [{}], [{ type: "web_search" }], [{ type: "function" }]],
        tool_choice: ["maybe", 5, "required"],
        previous_response_id: ["resp_1"],
        background: [true],
        stream: ["yes", 1],
        nobody_knows: [1],
      },
      "/v1/embeddings": {
        input: [
          null,
          5,
          {},
          "",
          [],
          [""],
          [[]],
          [-1],
          [1.5],
          [99_999],
          [[99_999]],
          ["x", 5],
          Array(3000).fill("x"),
        ],
        dimensions: [0, -1, 1.5, "8", 100_000],
        encoding_format: ["hex", 5],
        pooling: ["max", 5],
        normalize: ["yes", 1],
        priority: [101, "high"],
        deadline: ["soon", []],
        nobody_knows: [1],
      },
    };
    for (let i = 0; i < EACH; i++) {
      const path = pick(random, Object.keys(wrong));
      const field = pick(random, Object.keys(wrong[path]!));
      const body = { ...requests[path], [field]: pick(random, wrong[path]![field]!) };
      expectRefused(await ask(path, body), () => [path, body]);
    }
  });

  it("paths that are tricks", async () => {
    const random = new TestRandom(65);
    const parts = [
      "..",
      "%2e%2e",
      ".",
      "%2f",
      "etc",
      "passwd",
      "v1",
      "models",
      "%00",
      "%",
      "%ff",
      "~",
      "a\\b",
      "assets",
      ":id",
      "*",
      "\u00e9",
    ];
    for (let i = 0; i < EACH; i++) {
      const path = Array.from({ length: 1 + random.below(6) }, () => `/${pick(random, parts)}`).join("");
      const init = pick(random, [
        {},
        { method: "DELETE" },
        { method: "PUT" },
        { method: "PATCH", body: "x" },
      ]);
      const response = await server.app.request(
        `http://localhost${pick(random, ["", "/v1", "/v1/files", "/v1/sessions/saved"])}${path}?x=${path}`,
        { headers, ...init },
      );
      const text = await response.text();
      if (response.status === 200) {
        // What is there for everybody: the page, or a list.
        expect(text).toMatch(/^(\{"object":"list"|<!doctype html)/i);
        continue;
      }
      // This server keeps no files and no sessions.
      const status = response.status === 501 ? 400 : response.status;
      expectRefused({ status, headers: response.headers, body: JSON.parse(text) }, () => path);
    }
  });

  /** A request as it goes over a connection. */
  const bytesOf = (body: object): Buffer => {
    const text = JSON.stringify(body);
    const head = `POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\nContent-Type: application/json\r\nContent-Length: ${text.length}`;
    return Buffer.from(`${head}\r\n\r\n${text}`);
  };
  const long = { ...completion, max_tokens: 400, ignore_eos: true, logprobs: 5 };
  const settled = async () => {
    await expect.poll(() => server.context.works.size, PATIENT).toBe(0);
    await expect.poll(async () => (await model.usage()).running, PATIENT).toBe(0);
  };

  it("clients that go in the middle: of their headers, their body, the answer", async () => {
    const random = new TestRandom(66);
    const one = async () => {
      const streams = random.below(2) === 0;
      const bytes = bytesOf({ ...long, stream: streams });
      const socket = connect(listening.port, "127.0.0.1");
      socket.on("error", () => {});
      const closed = once(socket, "close");
      const kind = random.below(4);
      if (kind < 2) {
        // Before the body, or within it.
        const at = bytes.indexOf("\r\n\r\n") + 4;
        socket.write(bytes.subarray(0, kind === 0 ? random.below(at) : at + random.below(bytes.length - at)));
        await new Promise(setImmediate);
      } else {
        socket.write(bytes);
        if (kind === 2 || !streams) await new Promise(setImmediate);
        else await once(socket, "data");
      }
      if (random.below(2) === 0) socket.destroy();
      else socket.resetAndDestroy();
      await closed;
    };
    for (let i = 0; i < EACH / 20; i++) await Promise.all(Array.from({ length: 20 }, one));
    await settled();
  });

  it("clients that read nothing", async () => {
    const bytes = bytesOf({ ...long, n: 2, stream: true });
    for (let i = 0; i < EACH / 50; i++) {
      const sockets = Array.from({ length: 50 }, () => {
        const socket = connect(listening.port, "127.0.0.1");
        socket.on("error", () => {});
        socket.pause();
        socket.write(bytes);
        return socket;
      });
      await expect.poll(() => server.context.works.size, PATIENT).toBe(50);
      // They hold back none but themselves: what needs no turn of the model is answered.
      expect((await ask("/v1/models")).status).toBe(200);
      for (const socket of sockets) socket.destroy();
      await settled();
    }
  });

  it("leave nothing behind", async () => {
    await settled();
    await expect.poll(handles, PATIENT).toBeLessThanOrEqual(handlesBefore);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
    for (const path of paths) expect([path, (await ask(path, requests[path])).status]).toEqual([path, 200]);
  });
});
