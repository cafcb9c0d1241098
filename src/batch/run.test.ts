import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { MillraceError } from "../errors.js";
import { batchAnswerer } from "../server/batch-answerer.js";
import { createServer } from "../server/create.js";
import { type BatchAnswer, Journal } from "./journal.js";
import { type BatchRequest, readLines } from "./lines.js";
import { type Answerer, runBatch } from "./run.js";

let folder: string;
let path: string;
let files = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-batch-"));
});
beforeEach(() => {
  path = join(folder, `${files++}.jsonl`);
});
afterAll(() => rm(folder, { recursive: true }));

const line = (custom_id: string, prompt: string, rest: object = {}) =>
  JSON.stringify({
    custom_id,
    method: "POST",
    url: "/v1/completions",
    body: { model: "default", prompt, ...rest },
  });

/** Answers with the prompt in capitals; notes what it was asked. */
function echo(fail: (prompt: string) => MillraceError | null = () => null) {
  const asked: string[] = [];
  const answerer: Answerer = {
    measure: async ({ body }) => ({
      tokens: [...String(body.prompt)].map((c) => c.charCodeAt(0)),
      answerTokens: 4,
    }),
    answer: async ({ body }: BatchRequest): Promise<BatchAnswer> => {
      const prompt = String(body.prompt);
      asked.push(prompt);
      await null;
      const error = fail(prompt);
      if (error) throw error;
      return { response: { status_code: 200, request_id: "r", body: prompt.toUpperCase() }, error: null };
    },
  };
  return { answerer, asked };
}

interface Row {
  id: string;
  custom_id: string | null;
  response: { status_code: number; body: unknown } | null;
  error: { code: string; message: string } | null;
}
const rows = async (): Promise<Row[]> =>
  (await readFile(path, "utf8"))
    .split("\n")
    .slice(0, -1)
    .map((row) => JSON.parse(row) as Row);

async function run(
  text: string,
  answerer: Answerer,
  options: { signal?: AbortSignal; concurrency?: number } = {},
) {
  const lines = readLines(text);
  await using journal = await Journal.open(path, lines);
  return await runBatch({ lines, journal, answerer, concurrency: 1, ...options });
}

const five = ["ab1", "xy1", "ab2", "xy2", "q"].map((prompt, i) => line(`id-${i}`, prompt)).join("\n");

describe("a batch", () => {
  it("answers every line once, sharers together", async () => {
    const { answerer, asked } = echo();
    const result = await run(five, answerer);
    expect(result).toMatchObject({
      lines: 5,
      before: 0,
      answered: 5,
      failed: 0,
      promptTokens: 13,
      plannedSavedTokens: 4,
    });
    expect(asked.map((prompt) => prompt[0]).join("")).toMatch(/^(?=.*aa)(?=.*xx)[axq]{5}$/);
    const got = new Map((await rows()).map(({ custom_id, response }) => [custom_id, response?.body]));
    expect(Object.fromEntries(got)).toEqual({
      "id-0": "AB1",
      "id-1": "XY1",
      "id-2": "AB2",
      "id-3": "XY2",
      "id-4": "Q",
    });
  });

  it("goes on where it was ended, whatever was being written then", async () => {
    for (let seen = 1; seen <= 5; seen++) {
      path = join(folder, `resume-${seen}.jsonl`);
      const abort = new AbortController();
      const first = echo((prompt) => {
        if (first.asked.length === seen) abort.abort();
        return prompt === "" ? new MillraceError("INTERNAL", "") : null;
      });
      await expect(run(five, first.answerer, { signal: abort.signal })).rejects.toMatchObject({
        code: "ABORTED",
      });
      expect(await rows()).toHaveLength(seen - 1);
      await appendFile(path, '{"id":"batch_req_3","custom_id":"id-2","respo');
      const second = echo();
      expect(await run(five, second.answerer, { concurrency: 3 })).toMatchObject({
        before: seen - 1,
        answered: 6 - seen,
      });
      const ids = (await rows()).map(({ custom_id }) => custom_id).sort();
      expect(ids).toEqual(["id-0", "id-1", "id-2", "id-3", "id-4"]);
      const third = echo();
      expect(await run(five, third.answerer)).toMatchObject({ before: 5, answered: 0 });
      expect(third.asked).toEqual([]);
    }
  });

  it("stops where it is pointless to go on, and loses nothing", async () => {
    const { answerer } = echo((prompt) =>
      prompt === "xy2" ? new MillraceError("WORKER_CRASHED", "gone") : null,
    );
    await expect(run(five, answerer, { concurrency: 2 })).rejects.toMatchObject({ code: "WORKER_CRASHED" });
    const before = (await rows()).length;
    expect(await run(five, echo().answerer)).toMatchObject({ before, answered: 5 - before });
  });

  it("answers bad lines with what is wrong with them", async () => {
    const text = [
      "\uFEFF" + line("a", "fine"),
      "{ no json",
      "",
      "[1]",
      line("a", "again"),
      '{"custom_id": "b", "method": "GET", "url": "/v1/completions", "body": {}}',
      '{"custom_id": "c", "method": "POST", "url": "elsewhere", "body": {}}',
      '{"custom_id": "d", "method": "POST", "url": "/v1/completions"}',
      '{"custom_id": 7, "method": "POST", "url": "/v1/completions", "body": {}}',
      "null\r",
    ].join("\n");
    const { answerer, asked } = echo();
    expect(await run(text, answerer)).toMatchObject({ lines: 9, answered: 9, failed: 8 });
    expect(asked).toEqual(["fine"]);
    const bad = (await rows()).filter(({ error }) => error);
    expect(bad.map(({ id, custom_id }) => `${id} ${custom_id}`)).toEqual([
      "batch_req_2 null",
      "batch_req_4 null",
      "batch_req_5 a",
      "batch_req_6 b",
      "batch_req_7 c",
      "batch_req_8 d",
      "batch_req_9 null",
      "batch_req_10 null",
    ]);
    expect(bad.every(({ response, error }) => response === null && error!.code === "INVALID_ARGUMENT")).toBe(
      true,
    );
    expect(bad[2]!.error!.message).toMatch(/Line 5 has the custom_id "a", as line 1 has/);
    expect(await run(text, answerer)).toMatchObject({ before: 9, answered: 0 });
  });

  it("touches no file of other answers", async () => {
    const cases: [string, string][] = [
      ['{"id":"batch_req_1","custom_id":"other","response":null,"error":null}\n', "INVALID_ARGUMENT"],
      ['{"id":"batch_req_77","custom_id":"id-0","response":null,"error":null}\n', "INVALID_ARGUMENT"],
      ["hello\n", "BAD_FORMAT"],
      [
        '{"id":"batch_req_1","custom_id":"id-0"}\n{"id":"batch_req_1","custom_id":"id-0"}\ntorn',
        "BAD_FORMAT",
      ],
    ];
    for (const [content, code] of cases) {
      await writeFile(path, content);
      await expect(run(five, echo().answerer)).rejects.toMatchObject({ code });
      expect(await readFile(path, "utf8")).toBe(content);
    }
  });

  it("is answered by a model as over HTTP", async () => {
    await using model = await openNull();
    const answerer = batchAnswerer(createServer([{ name: "tiny", model }]));
    const text = [
      line("ok", "the rest", { max_tokens: 4, temperature: 0, ignore_eos: true }),
      line("unknown", "the rest", { model: "gpt" }),
      line("streamed", "the rest", { stream: true }),
      line("wrong", "the rest", { max_tokens: -1 }),
      JSON.stringify({ custom_id: "url", method: "POST", url: "/v1/sessions", body: { model: "tiny" } }),
      JSON.stringify({
        custom_id: "chat",
        method: "POST",
        url: "/v1/chat/completions",
        body: {
          model: "tiny",
          messages: [{ role: "user", content: "the rest" }],
          max_tokens: 3,
          ignore_eos: true,
        },
      }),
    ].join("\n");
    expect(await run(text, answerer, { concurrency: 3 })).toMatchObject({ answered: 6, failed: 4 });
    const got = Object.fromEntries((await rows()).map((row) => [row.custom_id, row]));
    const want = await model.generate("the rest", { maxTokens: 4, temperature: 0, ignoreEos: true }).result;
    expect(got.ok!.response).toMatchObject({ status_code: 200, body: { choices: [{ text: want.text }] } });
    expect(got.chat!.response).toMatchObject({ status_code: 200, body: { usage: { completion_tokens: 3 } } });
    expect(got.unknown!.response).toMatchObject({
      status_code: 404,
      body: { error: { code: "model_not_found" } },
    });
    expect(got.wrong!.response).toMatchObject({ status_code: 400, body: { error: { param: "max_tokens" } } });
    expect(got.streamed!.response).toMatchObject({
      status_code: 400,
      body: { error: { param: "stream", message: expect.stringContaining("cannot stream") } },
    });
    expect(got.url!.response).toMatchObject({
      status_code: 400,
      body: { error: { param: "url", message: expect.stringContaining("none that a batch may name") } },
    });
  });

  it("leaves others a turn after each few lines that it measures", async () => {
    const lines = readLines(Array.from({ length: 60 }, (_, i) => line(`id-${i}`, `p${i}`)).join("\n"));
    const { answerer } = echo();
    let [turns, before] = [0, 0];
    let counts = true;
    const count = () => {
      turns++;
      if (counts) setImmediate(count);
    };
    setImmediate(count);
    await using journal = await Journal.open(path, lines);
    const noting: Answerer = {
      ...answerer,
      answer: (...asked) => {
        before ||= turns - opened;
        return answerer.answer(...asked);
      },
    };
    const opened = turns;
    await runBatch({ lines, journal, answerer: noting, concurrency: 1, measuring: 3 });
    counts = false;
    expect(before).toBeGreaterThanOrEqual(19);
  });
});
