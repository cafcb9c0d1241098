/** Thousands of bodies that are wrong, each in its own way: every one gets an error in OpenAI's shape, and nothing is left of it. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { anything, expectRefused, pick } from "../../test/support/malformed.js";
import { TestRandom } from "../../test/support/random.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

const EACH = 1000;

describe("malformed requests", () => {
  let model: Model;
  let server: ReturnType<typeof serverOf>;
  let session: string;
  beforeAll(async () => {
    model = await openNull();
    server = serverOf({ tiny: model }, { limits: { bodyBytes: 50_000 } });
    const opened = await server.ask("/v1/sessions", {
      model: "tiny",
      cache: { policy: "window", tokens: 32 },
    });
    session = `/v1/sessions/${opened.body.id}`;
  });
  afterAll(() => model.close());

  const chat = { model: "tiny", messages: [{ role: "user", content: "x" }], max_tokens: 1 };
  const completion = { model: "tiny", prompt: "x", max_tokens: 1 };

  /** Sends what `make` makes of a random sequence, and wants each refused. */
  async function refused(path: () => string, make: (random: TestRandom) => unknown): Promise<void> {
    const random = new TestRandom(5);
    for (let i = 0; i < EACH; i++) {
      const body = make(random);
      const asked = await server.ask(path(), typeof body === "string" ? body : JSON.stringify(body));
      expectRefused(asked, () => [path(), body]);
    }
  }

  it.each([
    ["/v1/chat/completions", chat],
    ["/v1/completions", completion],
  ])("cut off and scrambled JSON to %s", (path, request) => {
    const text = JSON.stringify({ ...request, stop: ['"', "}"], logit_bias: { "5": 1 } });
    return refused(
      () => path,
      (random) => {
        const at = 1 + random.below(text.length - 1);
        if (random.below(2) === 0) return text.slice(0, at);
        return `${text.slice(0, at)}${pick(random, ["}", "]", "\u0000", '"', ",,", "{", "NaN", "'"])}${text.slice(at)}#`;
      },
    );
  });

  it.each([
    ["/v1/chat/completions", chat],
    ["/v1/completions", completion],
  ])("fields of wrong types to %s", (path, request) => {
    const wrong = {
      temperature: ["1", [], {}, true, -1, 99],
      top_p: ["1", -0.1, 1.1, [1]],
      max_tokens: ["5", 0, -5, 1.5, 1e300],
      n: [0, 1000, "2", []],
      stop: [5, [5], [""], {}, [null]],
      seed: ["1", -1, 0.5, 1e300],
      logit_bias: [[1], { a: 1 }, { "1": "x" }, { "-1": 1 }, { "5": 1e9 }, { "99999": 1 }],
      stream: ["yes", 1, []],
      stream_options: [true, { include_usage: "yes" }, { other: true }],
      model: [5, null, {}, "", "none", "x".repeat(1000), "../../etc"],
      adapter: ["a", 5],
      [path.includes("chat") ? "messages" : "prompt"]: [
        [],
        null,
        5,
        {},
        [null],
        [[]],
        [{}],
        [{ role: "user" }],
        [{ role: 5, content: "x" }],
        [{ role: "user", content: [{ type: "text" }] }],
        [{ role: "user", content: "x", extra: 1 }],
        [1.5],
        [-1],
        [1e9],
        ["a", ["b"]],
      ],
      nobody_knows: [1],
    };
    return refused(
      () => path,
      (random) => {
        const field = pick(random, Object.keys(wrong)) as keyof typeof wrong;
        return { ...request, [field]: pick(random, wrong[field]!) };
      },
    );
  });

  it("values that no schema foresaw", () =>
    refused(
      () =>
        pick(paths, ["/v1/chat/completions", "/v1/completions", "/v1/sessions", "/v1/models/tiny/tokenize"]),
      (random) => anything(random, 4),
    ));

  it("wrong calls of sessions", () => {
    let path = "";
    const calls: Record<string, unknown[]> = {
      append: [
        {},
        { input: 5 },
        { input: [] },
        { input: [-1] },
        { input: [9999] },
        { input: "x", tools: [{}] },
        { text: "x" },
      ],
      generate: [
        { max_tokens: 0 },
        { max_tokens: "all" },
        { max_tokens: "inf" },
        { temperature: -1 },
        { resume: true },
        { n: 2 },
      ],
      rewind: [{}, { to: -1 }, { to: 1.5 }, { to: 1e15 }, { to: "0" }],
      recall: [{ question: 5 }, {}, { question: "x" }],
      save: [{}, { name: "../x" }, { name: 5 }, { name: "a/b" }],
    };
    return refused(
      () => path,
      (random) => {
        const call = pick(random, Object.keys(calls));
        path =
          random.below(5) === 0
            ? `/v1/sessions/${pick(random, ["x", "..", "%2e%2e", "sess_"])}/${call}`
            : `${session}/${call}`;
        return pick(random, calls[call]!);
      },
    );
  });

  it("bodies that are too large", async () => {
    const text = JSON.stringify({ ...completion, prompt: "x".repeat(60_000) });
    for (let i = 0; i < EACH; i++) {
      const { status, body } = await server.ask("/v1/completions", text);
      if (status !== 413 || body.error.code !== "body_too_large")
        expect.fail(`${status} ${JSON.stringify(body)}`);
    }
  });

  it("leave nothing behind", async () => {
    expect(server.context.works.size).toBe(0);
    expect(await model.usage()).toMatchObject({ running: 0, waiting: 0 });
    expect((await server.ask("/health")).body.status).toBe("ok");
    expect((await server.ask("/v1/chat/completions", chat)).status).toBe(200);
    expect((await server.ask(`${session}/append`, { input: "still here" })).status).toBe(200);
  });
});

const paths = new TestRandom(11);
