/** Calls that come, are taken back, or meet each other at any moment: each ends, and the session can be used. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { loadNull, localThread, openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import type { Piece } from "../engine/generation.js";
import { openOn, openParameters } from "../engine/open.js";
import { full, sinks } from "../engine/policies.js";
import type { ToWorker } from "../engine/protocol.js";
import { type Model, makeModel } from "./model.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-moments-"));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});
const open = async (...parameters: Parameters<typeof openNull>) => {
  const model = await openNull(...parameters);
  models.push(model);
  return model;
};

const code = (name: string) => expect.objectContaining({ code: name });
const random = new TestRandom(8);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));
const greedy = { ignoreEos: true } as const;
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
const cache = sinks({ window: 48 });
const recall = (more: object = {}) => ({ disk: "4 MiB", memory: "64 KiB", tokens: 64, dir: folder, ...more });

it("an append is taken back whole while its session is still being opened", async () => {
  const session = (await open()).session({ cache, recall: recall() });
  const controller = new AbortController();
  const append = session.append(tokens(50), { signal: controller.signal });
  controller.abort();
  await expect(append).rejects.toMatchObject({ code: "ABORTED", details: { taken: 0 } });
  expect(await session.inspect()).toMatchObject({ seen: 0 });
  expect(await session.append(tokens(3))).toBe(3);
});

it("an append and an answer are taken back while the session stands still to be saved", async () => {
  const model = await open();
  const session = model.session({ cache });
  await session.append(tokens(20));
  const saved = session.save(join(folder, "still.mill"));
  const controller = new AbortController();
  const { signal } = controller;
  const append = session.append(tokens(50), { signal });
  const answer = collect(session.generate({ ...greedy, signal }));
  await Promise.all([
    expect(append).rejects.toMatchObject({ code: "ABORTED", details: { taken: 0 } }),
    expect(answer).rejects.toEqual(code("ABORTED")),
    nextTurn().then(() => controller.abort()),
  ]);
  await saved;
  expect(await session.append(tokens(5))).toBe(5);
  expect(await collect(session.generate({ ...greedy, maxTokens: 3 }))).toHaveLength(3);
  expect((await model.restore(join(folder, "still.mill"))).report).toMatchObject({ seen: 19, waiting: 1 });
});

it("a second answer is refused at once, also where it would recall first", async () => {
  const session = (await open()).session({ cache, recall: recall() });
  await session.append(tokens(300));
  const first = session.generate({ ...greedy, maxTokens: 2000 });
  await first.next();
  await expect(collect(session.generate(greedy))).rejects.toThrow(/answering already/);
  await first.return();
  expect(await collect(session.generate({ ...greedy, maxTokens: 2 }))).toHaveLength(2);
});

it("an answer recalls for what was appended last, also when what stood before that was taken back", async () => {
  const session = (await open()).session({ cache, recall: recall({ by: "both" }) });
  const stream = tokens(400);
  await session.append(stream);
  const controller = new AbortController();
  const long = session.append(tokens(50_000), { signal: controller.signal });
  const question = session.append(stream.slice(100, 110));
  setTimeout(() => controller.abort(), 10);
  await expect(long).rejects.toEqual(code("ABORTED"));
  await question;
  const { ranges } = await session.recall();
  expect(ranges[0]!.some(([first, last]) => first <= 104 && last >= 104)).toBe(true);
  // Nothing is left of a question that was taken back: an answer comes all the same.
  const other = new AbortController();
  const gone = session.append(stream.slice(200, 210), { signal: other.signal });
  other.abort();
  await gone.catch(() => {});
  expect(await collect(session.generate({ ...greedy, maxTokens: 2 }))).toHaveLength(2);
});

it("a session that was rewound to before its question answers all the same", async () => {
  for (const by of ["tokens", "keys", "both"] as const) {
    const session = (await open()).session({ cache, recall: recall({ by }) });
    await session.append(tokens(300));
    const { seen, waiting } = await session.inspect().then((at) => ({ ...at, ...session.report }));
    await session.append(tokens(10));
    await session.rewind(seen + waiting);
    expect(await collect(session.generate({ ...greedy, maxTokens: 2 }))).toHaveLength(2);
  }
});

it("a session is saved, forked or asked no more once a close came before", async () => {
  const at = await mkdtemp(join(folder, "closed-"));
  const session = (await open()).session({ cache, recall: recall(), memory: "1 MiB" });
  await session.append(tokens(300));
  const saved = session.save(join(at, "one.mill"));
  const closed = session.close();
  const late = [session.save(join(at, "two.mill")), session.fork(), session.recall(), session.inspect()];
  await Promise.all(late.map((call) => expect(call).rejects.toEqual(code("CLOSED"))));
  await Promise.all([saved, closed]);
  const left = await readdir(at);
  expect(left.filter((name) => name.startsWith("two"))).toEqual([]);
});

it("no folder of a tier is left by a model that is closed while sessions are being opened", async () => {
  const dir = await mkdtemp(join(folder, "opening-"));
  const model = await open();
  const sessions = Array.from({ length: 5 }, () => model.session({ cache, recall: recall({ dir }) }));
  const opened = Promise.allSettled(sessions.map((session) => session.opened));
  await model.close();
  await opened;
  expect(await readdir(dir)).toEqual([]);
});

it("sessions that are opened at once do not together pass the model's budget", async () => {
  const options = { cache, recall: recall({ by: "keys" }) };
  const { memoryBytes } = await (await open()).session(options).opened;
  const limited = await open({ memory: "4 MiB", sequences: 1, context: 64 });
  const count = 2 + Math.ceil((4 * 2 ** 20) / memoryBytes);
  const sessions = Array.from({ length: count }, () => limited.session(options));
  const opened = await Promise.allSettled(sessions.map((session) => session.opened));
  const fit = opened.filter(({ status }) => status === "fulfilled").length;
  expect(fit).toBeLessThan(count);
  for (const each of opened)
    if (each.status === "rejected") expect(each.reason).toEqual(code("OUT_OF_BUDGET"));
  // As many as one after another, and the room of those that are closed is there again.
  await Promise.all(sessions.map((session) => session.close()));
  let one = 0;
  for (; one < count; one++) if (!(await limited.session(options).opened.catch(() => null))) break;
  expect(one).toBe(fit);
});

it("what the caller's listener throws is the process's to hear, and keeps nothing from anybody", async () => {
  const session = (await open()).session({ cache });
  const [errors, told]: [unknown[], string[]] = [[], []];
  session.on("change", () => {
    throw new Error("the listener fails");
  });
  session.on("change", ({ kind }) => told.push(kind));
  const others = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => errors.push(error));
  try {
    await session.append(tokens(200));
    expect(await collect(session.generate({ ...greedy, maxTokens: 40 }))).toHaveLength(40);
    await nextTurn();
  } finally {
    process.removeAllListeners("uncaughtException");
    for (const other of others) process.on("uncaughtException", other);
  }
  expect(told.length).toBeGreaterThan(20);
  expect(errors).toHaveLength(told.length);
  expect(errors[0]).toEqual(new Error("the listener fails"));
});

it("the worker forgets every session that could not be made, and its calls say why", async () => {
  const posted: ToWorker[] = [];
  const thread = localThread(loadNull);
  const parameters = openParameters("(memory)", { backend: "null" });
  const post = (message: ToWorker) => {
    posted.push(message);
    thread.post(message);
  };
  const model = await openOn({ ...thread, post }, parameters, {}, makeModel);
  models.push(model);
  const path = join(folder, "none.mill");
  await writeFile(path, "no session");
  await expect(model.restore(path)).rejects.toEqual(code("BAD_FORMAT"));
  const small = model.session({ cache, memory: 1000 });
  await expect(small.opened).rejects.toEqual(code("OUT_OF_BUDGET"));
  const session = model.session({ cache });
  await session.append(tokens(5));
  await expect(session.fork()).rejects.toEqual(code("OUT_OF_BUDGET"));
  await model.usage();
  const calls = posted.flatMap((message) => (message.type === "call" ? [message] : []));
  const made = calls.filter(({ name }) => ["restore", "openSession", "fork"].includes(name));
  const closed = calls.flatMap((call) => (call.name === "closeSession" ? [call.parameters.session] : []));
  expect(made).toHaveLength(4);
  expect(closed).toEqual(made.map(({ id }) => id).filter((_, i) => i !== 2));
  for (const call of [small.append([5]), small.inspect(), small.save(path), small.fork()]) {
    await expect(call).rejects.toEqual(code("OUT_OF_BUDGET"));
  }
  await expect(collect(small.generate())).rejects.toEqual(code("OUT_OF_BUDGET"));
  await small.close();
});

it("an append of nothing leaves a session as it is: its text still begins as a prompt does", async () => {
  const model = await open();
  const [one, other] = [model.session({ cache: full() }), model.session({ cache: full() })];
  expect(await one.append([])).toBe(0);
  expect(await one.append("the rest")).toBe(await other.append("the rest"));
  expect(await one.append("")).toBe(0);
});

it.skipIf(!existsSync("/proc/self"))(
  "saving fails where no folder can be made, and does not try for ever",
  async () => {
    const session = (await open()).session({ cache });
    await session.append(tokens(20));
    await expect(session.save("/proc/none/session.mill")).rejects.toEqual(code("WRITE_FAILED"));
    await expect(session.save(folder)).rejects.toEqual(code("WRITE_FAILED"));
    await expect(session.save("a\0b")).rejects.toEqual(code("INVALID_ARGUMENT"));
    expect(await session.append(tokens(2))).toBe(2);
  },
);

it("saving removes the blocks of earlier savings, and nothing that is called alike", async () => {
  const at = await mkdtemp(join(folder, "alike-"));
  const path = join(at, "log");
  await writeFile(join(at, "log.tier-notes"), "mine");
  await mkdir(join(at, "log.tier-0123456789ab"));
  const session = (await open()).session({ cache, recall: recall() });
  await session.append(tokens(200));
  await session.save(path);
  const names = await readdir(at);
  expect(names).toContain("log.tier-notes");
  expect(names).not.toContain("log.tier-0123456789ab");
  expect(names).toHaveLength(3);
});
