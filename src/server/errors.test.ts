import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import { ERRORS, MillraceError } from "../errors.js";
import type { Model } from "../session/model.js";
import { ApiError, toApiError } from "./errors.js";

describe("what goes wrong", () => {
  let model: Model;
  let server: ReturnType<typeof serverOf>;
  beforeAll(async () => {
    model = await openNull();
    server = serverOf({ tiny: model }, { limits: { bodyBytes: 20_000 } });
  });
  afterAll(() => model.close());

  const messages = [{ role: "user", content: "the rest" }];
  const chat = "/v1/chat/completions";
  const text = "/v1/completions";
  const ask = { model: "tiny", messages };
  const prompt = { model: "tiny", prompt: "the rest" };

  it.each<[string, string, unknown, number, string, string | null]>([
    ["broken JSON", chat, '{"model": "tiny"', 400, "invalid_json", null],
    ["an empty body", chat, "", 400, "invalid_json", null],
    ["a body that is no object", chat, [], 400, "invalid_type", null],
    ["no model", chat, { messages }, 400, "missing_required_parameter", "model"],
    ["an unknown model", chat, { ...ask, model: "gpt-9" }, 404, "model_not_found", "model"],
    ["no messages", chat, { model: "tiny" }, 400, "missing_required_parameter", "messages"],
    ["an empty conversation", chat, { ...ask, messages: [] }, 400, "invalid_value", "messages"],
    [
      "a role that is none",
      chat,
      { ...ask, messages: [{ role: "boss", content: "" }] },
      400,
      "invalid_value",
      "messages[0].role",
    ],
    [
      "content that is none",
      chat,
      { ...ask, messages: [{ role: "user", content: 5 }] },
      400,
      "invalid_value",
      "messages[0].content",
    ],
    [
      "an image",
      chat,
      { ...ask, messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
      400,
      "invalid_value",
      "messages[0].content[0].type",
    ],
    ["an unknown field", chat, { ...ask, max_token: 5 }, 400, "unknown_parameter", "max_token"],
    [
      "a field of nobody's prototype",
      chat,
      '{"model":"tiny","messages":[],"__proto__":{}}',
      400,
      "invalid_value",
      "messages",
    ],
    [
      "a known field that is not supported",
      chat,
      { ...ask, audio: {} },
      400,
      "unsupported_parameter",
      "audio",
    ],
    ["a string for a number", chat, { ...ask, temperature: "hot" }, 400, "invalid_type", "temperature"],
    ["too hot", chat, { ...ask, temperature: 3 }, 400, "invalid_value", "temperature"],
    ["half a token", chat, { ...ask, max_tokens: 1.5 }, 400, "invalid_type", "max_tokens"],
    ["no answer", chat, { ...ask, n: 0 }, 400, "invalid_value", "n"],
    ["a token that is none", chat, { ...ask, logit_bias: { "9999": 1 } }, 400, "invalid_value", "logit_bias"],
    ["a bias of a word", chat, { ...ask, logit_bias: { the: 1 } }, 400, "invalid_value", "logit_bias.the"],
    ["an adapter where there are none", chat, { ...ask, adapter: "x" }, 400, "invalid_value", "adapter"],
    [
      "a tool choice without tools",
      chat,
      { ...ask, tool_choice: "required" },
      400,
      "invalid_value",
      "tool_choice",
    ],
    [
      "too long a prompt",
      text,
      { ...prompt, prompt: Array(600).fill(5) },
      400,
      "context_length_exceeded",
      null,
    ],
    ["ids outside the vocabulary", text, { ...prompt, prompt: [1, 5000] }, 400, "invalid_token", null],
    ["a prompt of mixed kinds", text, { ...prompt, prompt: ["a", 1] }, 400, "invalid_type", "prompt[0]"],
    ["too many answers", text, { ...prompt, prompt: ["a", "b"], n: 100 }, 400, "invalid_value", "n"],
    ["best_of", text, { ...prompt, best_of: 3 }, 400, "unsupported_parameter", "best_of"],
    ["a huge body", text, { ...prompt, prompt: "x".repeat(30_000) }, 413, "body_too_large", null],
    ["what is not there", "/v1/nothing", {}, 404, "unknown_url", null],
    ["a session that is none", "/v1/sessions/sess_1/append", { input: "x" }, 404, "session_not_found", "id"],
    [
      "saving where there is no folder",
      "/v1/sessions/restore",
      { model: "tiny", name: "x" },
      501,
      "saving_off",
      null,
    ],
  ])("refuses %s", async (_, path, body, status, code, param) => {
    const asked = await server.ask(path, body);
    expect(asked.body.error).toMatchObject({ code, param, message: expect.stringMatching(/\.$/) });
    expect(asked.body.error.type).toBe(status >= 500 ? "server_error" : "invalid_request_error");
    expect(asked.status).toBe(status);
    expect(asked.headers.get("x-request-id")).toMatch(/^req_/);
  });

  it("refuses bodies that are no JSON by their type", async () => {
    const { status, body } = await server.ask(chat, ask, { headers: { "Content-Type": "text/plain" } });
    expect([status, body.error.code]).toEqual([415, "unsupported_media_type"]);
  });

  it("refuses bodies that come packed", async () => {
    const packed = gzipSync(JSON.stringify(ask)) as unknown as string;
    const init = { method: "POST", body: packed };
    for (const encoding of ["gzip", "br", "deflate, gzip", "nonsense"]) {
      const headers = { "Content-Type": "application/json", "Content-Encoding": encoding };
      const { status, body } = await server.ask(chat, undefined, { ...init, headers });
      expect([status, body.error.code]).toEqual([415, "unsupported_encoding"]);
    }
    const plain = await server.ask(
      chat,
      { ...ask, max_tokens: 1 },
      { headers: { "Content-Encoding": "identity" } },
    );
    expect(plain.status).toBe(200);
  });

  it("speaks of fields and figures by the API's names", async () => {
    const grammar = { type: "grammar", grammar: "root ::= (" };
    const { body } = await server.ask(chat, { ...ask, response_format: grammar });
    expect(body.error).toMatchObject({ code: "invalid_value", param: "response_format" });
    const error = new ApiError(400, "x", "x.", { details: { limitMs: 5, tokens: 6 } });
    expect(error.body.error.details).toEqual({ limit_ms: 5, tokens: 6 });
    expect(new ApiError(400, "x", "x.").body.error).not.toHaveProperty("details");
  });

  it("refuses JSON nested too deeply for what would walk it", async () => {
    const deep = (depth: number) => `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;
    const request = (depth: number) =>
      `{"model":"tiny","messages":[{"role":"user","content":"x"}],"max_tokens":1,"chat_template_kwargs":{"x":${deep(depth)}}}`;
    expect((await server.ask(chat, request(30))).status).toBe(200);
    expect((await server.ask(chat, request(1000))).body.error).toMatchObject({
      code: "invalid_value",
      param: "chat_template_kwargs.x",
    });
  });

  it("gives a stream that is refused at once its own status", async () => {
    const { status, body } = await server.ask(text, { ...prompt, prompt: Array(600).fill(5), stream: true });
    expect([status, body.error.code]).toEqual([400, "context_length_exceeded"]);
    expect(body.error.details).toEqual({ tokens: 600, context: 512 });
  });

  it("takes a request id that is one, and no other", async () => {
    const sent = async (id: string) =>
      (await server.ask("/v1/models", undefined, { headers: { "X-Request-Id": id } })).headers.get(
        "x-request-id",
      );
    expect(await sent("mine-1")).toBe("mine-1");
    expect(await sent("<script>")).toMatch(/^req_/);
  });

  it("says nothing of the inside of what nobody foresaw", () => {
    const error = toApiError(new TypeError("secret is undefined"));
    expect(error.status).toBe(500);
    expect(JSON.stringify(error.body)).not.toContain("secret");
    expect(error.cause).toBeInstanceOf(TypeError);
  });

  it("knows a status for each of the engine's errors", () => {
    for (const code of Object.keys(ERRORS) as (keyof typeof ERRORS)[]) {
      const error = toApiError(new MillraceError(code, "x", { name: "topP" }));
      expect(error).toBeInstanceOf(ApiError);
      expect(error.status).toBeGreaterThanOrEqual(400);
    }
    expect(toApiError(new MillraceError("INVALID_ARGUMENT", "x", { name: "topP" })).param).toBe("top_p");
  });
});
