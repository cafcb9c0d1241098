/** Sessions beside each other and beside requests: one batch a step, and to nobody does it make a difference. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { randomAdapter } from "../../test/support/adapters.js";
import { localThread, openNull } from "../../test/support/local-thread.js";
import { tinyCheckpoint, tinyModel, tinyPrompt } from "../../test/support/tiny-models.js";
import type { Backend, Step } from "../backends/contract.js";
import { createNull } from "../backends/null.js";
import { createReference } from "../backends/reference/index.js";
import type { Piece } from "../engine/generation.js";
import { assemble } from "../engine/load.js";
import { type OpenOptions, openOn, openParameters } from "../engine/open.js";
import { full, h2o, sinks, window } from "../engine/policies.js";
import { writeAdapter } from "../models/peft.js";
import { type Model, makeModel, type SessionOptions } from "./model.js";

const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-together-"));
  await writeAdapter(join(folder, "one"), checkpoint, await randomAdapter(checkpoint, { rank: 4, seed: 1 }));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

/** A model on `backend`; `seen` is told of every step before it runs. */
async function open(
  backend: Backend,
  options: OpenOptions = {},
  seen?: (step: Step) => void,
): Promise<Model> {
  const compile = backend.compile.bind(backend);
  backend.compile = async (...parameters) => {
    const program = await compile(...parameters);
    const run = program.run.bind(program);
    program.run = (step) => {
      seen?.(step);
      return run(step);
    };
    return program;
  };
  const thread = localThread((parameters, onProgress, sessions) =>
    assemble(checkpoint, { backend, reason: null }, parameters, onProgress, sessions),
  );
  const model = await openOn(thread, openParameters("(memory)", { context: 512, ...options }), {}, makeModel);
  models.push(model);
  return model;
}

const greedy = { temperature: 0, ignoreEos: true } as const;
const code = (name: string) => expect.objectContaining({ code: name });
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}

describe("sessions in one batch", () => {
  const kinds: readonly SessionOptions[] = [
    { cache: { policy: sinks({ window: 32 }), codec: "f32" } },
    { cache: { policy: window({ tokens: 40 }), codec: "int8" } },
    { cache: { policy: h2o({ heavy: 16, recent: 24 }), codec: "f16" }, adapter: "one" },
    { cache: { policy: full(), codec: "f16" } },
  ];
  const prompts = kinds.map((_, i) => tinyPrompt(50 + 9 * i).map((id, t) => 3 + ((id + 31 * i + t) % 300)));

  it("of different policies, codecs and adapters say and report what each of them does alone", async () => {
    const adapters = { one: join(folder, "one") };
    const play = async (model: Model, i: number) => {
      const session = model.session(kinds[i]);
      await session.append(prompts[i]!.slice(0, 20));
      const { logprobs } = await session.score(prompts[i]!.slice(20));
      const said = await collect(session.generate({ ...greedy, maxTokens: 24 }));
      const { seen, kept, dropped, bytes } = await session.inspect();
      return { said, logprobs: [...logprobs], seen, kept, dropped, bytes };
    };
    const alone = await open(createReference(), { adapters });
    const want = [];
    for (const i of kinds.keys()) want.push(await play(alone, i));
    const request = (model: Model) => model.generate(prompts[0]!, { ...greedy, maxTokens: 48 }).result;
    const { tokens: answer } = await request(alone);
    const spans: number[] = [];
    const model = await open(createReference(), { adapters }, (step) => spans.push(step.spans.length));
    const [{ tokens }, ...got] = await Promise.all([request(model), ...kinds.map((_, i) => play(model, i))]);
    expect(got).toEqual(want);
    expect(tokens).toEqual(answer);
    expect(Math.max(...spans)).toBe(kinds.length + 1);
  });

  it("take one step for a token each, and no places from requests", async () => {
    const steps: Step[] = [];
    const model = await open(createNull(), { sequences: 1 }, (step) => steps.push(step));
    const sessions = Array.from({ length: 12 }, () => model.session({ cache: sinks({ window: 60 }) }));
    await Promise.all(sessions.map((session, i) => session.append([5 + i])));
    const answers = sessions.map((session) => collect(session.generate({ ...greedy, maxTokens: 40 })));
    const { tokens } = await model.generate([9, 8], { ...greedy, maxTokens: 20 }).result;
    expect(tokens).toHaveLength(20);
    for (const said of await Promise.all(answers)) expect(said).toHaveLength(40);
    const tokensOf = steps.map((step) => step.tokens.length);
    expect(Math.max(...tokensOf)).toBeGreaterThan(12);
    // Twelve times forty tokens and twenty more in little more steps than one session takes.
    expect(tokensOf.length).toBeLessThan(60);
  });

  it("beyond the rows of a step come in turns, and none is left out", async () => {
    // Steps of 16 tokens: 12 sessions at once.
    const model = await open(createNull(), { sequences: 1, context: 16 });
    const sessions = Array.from({ length: 16 }, () => model.session({ cache: sinks({ window: 16 }) }));
    await Promise.all(sessions.map((session, i) => session.append([5 + i])));
    const ends: number[] = [];
    const answers = sessions.map(async (session, i) => {
      const said = await collect(session.generate({ ...greedy, maxTokens: i < 13 ? 60 : 5 }));
      expect(said).toHaveLength(i < 13 ? 60 : 5);
      ends.push(i);
    });
    await Promise.all(answers);
    // Those who came when all rows were taken, and want little, do not wait for those who want much to end.
    expect(ends.slice(0, 3)).toEqual([13, 14, 15]);
  });
});

describe("what stands in line beside a long append", () => {
  // Its chunks fill steps; those of narrow windows are shorter, and several ride together.
  const wide = sinks({ window: 1024 });
  const long = Array.from({ length: 20_000 }, (_, i) => 3 + (i % 300));

  it("of another session goes in at once, and so does a request", async () => {
    const model = await openNull();
    models.push(model);
    const session = model.session({ cache: sinks({ window: 60 }) });
    const other = model.session({ cache: sinks({ window: 60 }) });
    let done = false;
    const appended = session.append(long).then(() => {
      done = true;
    });
    await other.append(long.slice(0, 100));
    const said = await collect(other.generate({ ...greedy, maxTokens: 5 }));
    await model.generate([7, 8, 9], { ...greedy, maxTokens: 5 }).result;
    expect([said.length, done]).toEqual([5, false]);
    expect(session.report.seen).toBeLessThan(8000);
    await appended;
    expect(session.report.seen).toBe(19_999);
  });

  it("gets turns by client, however many sessions each has", async () => {
    const model = await openNull();
    models.push(model);
    const make = (client: string) => {
      const session = model.session({ cache: wide });
      return { session, appended: session.append(long, { client }) };
    };
    const greedyOnes = Array.from({ length: 4 }, () => make("many"));
    const single = make("one");
    await single.appended;
    const ran = greedyOnes.reduce((sum, { session }) => sum + session.report.seen, 0);
    // Equal shares: when one client's 20,000 are through, the other's four sessions have had about as many together.
    expect(ran).toBeGreaterThan(18_000);
    expect(ran).toBeLessThan(22_000);
    await Promise.all(greedyOnes.map(({ appended }) => appended));
  });

  it("goes first where its priority is higher", async () => {
    const model = await openNull();
    models.push(model);
    const [low, high] = [0, 1].map(() => model.session({ cache: wide })) as [
      ReturnType<Model["session"]>,
      ReturnType<Model["session"]>,
    ];
    const later = low.append(long);
    await high.append(long.slice(0, 10_000), { priority: 3 });
    expect(low.report.seen).toBeLessThan(1000);
    await later;
    expect(low.report.seen).toBe(19_999);
  });
});

describe("a deadline", () => {
  const long = Array.from({ length: 200_000 }, (_, i) => 3 + (i % 300));

  it("ends an append with what is in, and an answer with what it has said; the session goes on", async () => {
    const model = await openNull();
    models.push(model);
    const session = model.session({ cache: sinks({ window: 60 }) });
    const error = await session.append(long, { deadline: 30 }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "DEADLINE_PASSED", details: { tokens: 200_000 } });
    const { taken } = (error as { details: { taken: number } }).details;
    expect(session.report).toMatchObject({ seen: taken - 1, waiting: 1 });
    const answer = session.generate({ ...greedy, maxTokens: 10_000_000, deadline: 1000 });
    const said = await collect(answer);
    expect(await answer.result).toMatchObject({ finishReason: "deadline" });
    expect(session.report).toMatchObject({ seen: taken + said.length - 1, waiting: 1 });
    expect(await session.append([5, 6, 7])).toBe(3);
    expect(await collect(session.generate({ ...greedy, maxTokens: 3 }))).toHaveLength(3);
  });

  it("fails what has not begun, and leaves what is in time", async () => {
    const model = await openNull();
    models.push(model);
    const session = model.session({ cache: sinks({ window: 60 }) });
    const first = session.append(long.slice(0, 20_000));
    const late = session.append([4, 5, 6], { deadline: 1 });
    await expect(late).rejects.toMatchObject({ code: "DEADLINE_PASSED", details: { tokens: 3, taken: 0 } });
    expect(await first).toBe(20_000);
    expect(session.report).toMatchObject({ seen: 19_999, waiting: 1 });
  });

  it("passes while the reader of an answer is behind", async () => {
    const model = await openNull();
    models.push(model);
    const session = model.session({ cache: sinks({ window: 60 }) });
    await session.append([5, 6]);
    const answer = session.generate({ ...greedy, maxTokens: 100_000, deadline: 700 });
    await answer.next();
    await new Promise((resolve) => setTimeout(resolve, 900));
    await collect(answer);
    expect(await answer.result).toMatchObject({ finishReason: "deadline" });
  });

  it("and priority and client are checked at once", async () => {
    const model = await openNull();
    models.push(model);
    const session = model.session();
    expect(() => session.append([5], { priority: 1.5 })).toThrow(code("INVALID_ARGUMENT"));
    expect(() => session.score([5], { client: "" })).toThrow(code("INVALID_ARGUMENT"));
    expect(() => session.generate({ deadline: -1 })).toThrow(code("INVALID_ARGUMENT"));
    expect(() => session.generate({ priorty: 1 } as never)).toThrow(/Did you mean "priority"/);
  });
});
