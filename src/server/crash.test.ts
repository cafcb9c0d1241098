import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { asker, eventsOf } from "../../test/support/server.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull } from "../backends/null.js";
import type { Loader } from "../engine/host.js";
import { assemble } from "../engine/load.js";
import { MillraceError } from "../errors.js";
import { createServer, type Server } from "./create.js";

/** Whoever runs this token takes the engine with it. */
const DEADLY = 13;

/** A tiny model whose backend crashes, as one does whose threads trap. */
const load: Loader = (parameters, onProgress, sessions) => {
  const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
  const { metadata } = checkpoint;
  const inner = createNull();
  const backend: typeof inner = {
    ...inner,
    async compile(...what) {
      const program = await inner.compile(...what);
      const run = program.run.bind(program);
      program.run = async (step) => {
        if (step.tokens.includes(DEADLY)) throw new MillraceError("WORKER_CRASHED", "A trap on a thread.");
        return run(step);
      };
      return program;
    },
  };
  return assemble(
    { ...checkpoint, tokenizer: { kind: "gguf", metadata } },
    { backend, reason: null },
    parameters,
    onProgress,
    sessions,
  );
};

/** Answers are drawn by chance: none of them may hit upon the deadly token. */
const plain = {
  model: "tiny",
  prompt: [1, 2, 3],
  max_tokens: 4,
  ignore_eos: true,
  logit_bias: { [DEADLY]: -100 },
};

describe("a server whose engine crashes", () => {
  let folder: string;
  let server: Server;
  let close: () => Promise<void>;
  let log: Record<string, unknown>[];
  let letOpen: () => void;
  let mayOpen: Promise<void>;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-crash-"));
    log = [];
    mayOpen = Promise.resolve();
    letOpen = () => {};
    const model = await openNull({}, load);
    const reopen = async () => {
      await mayOpen;
      return openNull({}, load);
    };
    const logger = pino({ level: "warn" }, { write: (line: string) => void log.push(JSON.parse(line)) });
    server = createServer([{ name: "tiny", model, reopen }], { sessionFolder: folder, logger });
    close = async () => {
      letOpen();
      await server.context.models.close();
      await model.close();
    };
  });
  afterEach(async () => {
    await close();
    await rm(folder, { recursive: true });
  });

  const ask: ReturnType<typeof asker> = (...what) =>
    asker((path, init) => server.app.request(path, init))(...what);
  const crash = () => ask("/v1/completions", { ...plain, prompt: [1, DEADLY] });
  /** The next opening waits until `letOpen`. */
  const holdBack = () => {
    mayOpen = new Promise((resolve) => {
      letOpen = resolve;
    });
  };

  it("fails what is under way, and answers what comes when the engine is back", async () => {
    const endless = await server.app.request("/v1/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...plain, max_tokens: 300, stream: true }),
    });
    expect(await crash()).toMatchObject({ status: 503, body: { error: { code: "engine_crashed" } } });
    const events = eventsOf(await endless.text());
    expect(events.at(-1)).toMatchObject({ error: { code: "engine_crashed" } });
    expect((await ask("/v1/completions", plain)).status).toBe(200);
    const told = log.filter(({ msg }) => msg !== "failed");
    expect(told.map(({ msg, model, retryInMs }) => [msg, model, retryInMs])).toEqual([
      ["engine crashed", "tiny", 0],
      ["engine reopened", "tiny", undefined],
    ]);
  });

  it("shows it in health and figures, and lets requests wait meanwhile", async () => {
    holdBack();
    await crash();
    const health = await ask("/health");
    expect(health).toMatchObject({
      status: 503,
      body: { status: "failing", models: [{ ok: false, crashes: 1 }] },
    });
    expect(["waiting", "reopening"]).toContain(health.body.models[0].state);
    expect((await ask("/metrics")).body).toContain('millrace_engine_up{model="tiny"} 0');
    const waiting = ask("/v1/completions", plain);
    letOpen();
    expect((await waiting).status).toBe(200);
    expect(await ask("/health")).toMatchObject({
      status: 200,
      body: { status: "ok", models: [{ ok: true, state: "ready", crashes: 1 }] },
    });
    const { body } = await ask("/metrics");
    for (const line of ["crashes_total", "reopened_total", "up"]) {
      expect(body).toContain(`millrace_engine_${line}{model="tiny"} 1`);
    }
  });

  it("tells who had a session that it is gone, and where it was saved", async () => {
    const open = async () => (await ask("/v1/sessions", { model: "tiny" })).body.id as string;
    const [saved, unsaved, deleted] = [await open(), await open(), await open()];
    for (const id of [saved, unsaved, deleted]) await ask(`/v1/sessions/${id}/append`, { input: [1, 2, 3] });
    await ask(`/v1/sessions/${saved}/save`, { name: "mine" });
    await ask(`/v1/sessions/${deleted}/save`, { name: "old" });
    await ask("/v1/sessions/saved/old", undefined, { method: "DELETE" });
    await crash();
    expect(await ask(`/v1/sessions/${saved}`)).toMatchObject({
      status: 410,
      body: { error: { code: "session_lost", details: { saved: "mine" } } },
    });
    for (const id of [unsaved, deleted]) {
      const { status, body } = await ask(`/v1/sessions/${id}/append`, { input: [4] });
      expect([status, body.error.code, body.error.details]).toEqual([410, "session_lost", undefined]);
    }
    expect((await ask("/v1/sessions")).body.data).toEqual([]);
    expect((await ask("/metrics")).body).toContain('millrace_sessions_lost_total{model="tiny"} 3');
    expect(log.find(({ msg }) => msg === "engine crashed")).toMatchObject({ sessionsLost: 3 });

    const restored = await ask("/v1/sessions/restore", { model: "tiny", name: "mine" });
    expect(restored.status).toBe(200);
    expect((await ask(`/v1/sessions/${restored.body.id}/generate`, { max_tokens: 2 })).status).toBe(200);
    // What was restored has a save, too, until another session takes its name.
    const other = await open();
    await ask(`/v1/sessions/${other}/append`, { input: [9] });
    await crash();
    const { body } = await ask(`/v1/sessions/${restored.body.id}`);
    expect(body.error.details).toEqual({ saved: "mine" });
    expect((await ask(`/v1/sessions/${saved}`, undefined, { method: "DELETE" })).status).toBe(200);
    expect((await ask(`/v1/sessions/${saved}`)).status).toBe(404);
  });
});
