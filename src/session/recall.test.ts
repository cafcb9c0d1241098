import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { openTiny } from "../../test/support/local-thread.js";
import { openLocal } from "../../test/support/open-local.js";
import { stories } from "../../test/support/outside.js";
import { TestRandom } from "../../test/support/random.js";
import { createNull } from "../backends/null.js";
import type { CacheEvent } from "../cache/sequence.js";
import type { Piece } from "../engine/generation.js";
import { full, sinks, window } from "../engine/policies.js";
import type { Model } from "./model.js";
import type { Session } from "./session.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-recall-"));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

async function open(...of: Parameters<typeof openTiny>): Promise<Model> {
  const model = await openTiny(...of);
  models.push(model);
  return model;
}

const code = (name: string) => expect.objectContaining({ code: name });
const random = new TestRandom(5);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
const RECALL = { disk: "4 MiB", tokens: 64, block: 16, memory: "64 KiB" } as const;
const greedy = { ignoreEos: true, temperature: 0 } as const;

async function expectAccount(session: Session): Promise<void> {
  const { seen, kept, merged, demoted, dropped, groups } = await session.inspect();
  expect(kept + merged + demoted + dropped).toBe(seen);
  for (const group of groups) {
    expect(group.kept + group.merged + group.demoted + group.dropped + group.expired).toBe(seen);
  }
}

describe("a session that recalls", () => {
  it("puts what its policy drops on disk, and attends what a question is about", async () => {
    const dir = await mkdtemp(join(folder, "dir-"));
    const model = await open(createNull);
    const session = model.session({ cache: sinks({ window: 48 }), recall: { ...RECALL, dir } });
    const changes: CacheEvent[] = [];
    session.on("change", (change) => changes.push(change));
    const stream = tokens(400);
    await session.append(stream);
    // The last 64 of what was appended last wait: they may be a question.
    expect(session.report).toMatchObject({ seen: 336, waiting: 64, dropped: 0 });
    expect(session.report.demoted).toBeGreaterThan(280);
    await session.append(stream.slice(100, 110));
    expect(await collect(session.generate({ ...greedy, maxTokens: 4 }))).toHaveLength(4);
    const last = changes.findLast(({ kind }) => kind === "recall");
    if (last?.kind !== "recall") throw new Error("nothing was recalled");
    expect(last.ranges.some(([from, to]) => from <= 100 && 109 <= to)).toBe(true);
    const { tier, seen } = await session.inspect();
    expect(seen).toBe(413);
    expect(tier).toMatchObject({ recalledTokens: last.count, problem: null });
    expect(tier!.diskBytes).toBeLessThanOrEqual(4 * 2 ** 20);
    await expectAccount(session);
    expect(await readdir(dir)).toHaveLength(1);
    await session.close();
    expect(await readdir(dir)).toHaveLength(0);
  });

  it.each(["tokens", "keys", "both"] as const)(
    "by %s, brings back by itself what it brings back when asked to",
    async (by) => {
      const model = await open();
      const stream = tokens(201);
      const brought: (readonly (readonly [number, number])[])[] = [];
      for (const auto of [true, false]) {
        const session = model.session({ cache: window({ tokens: 40 }), recall: { ...RECALL, by, auto } });
        session.on("change", (change) => {
          if (change.kind === "recall") brought.push(change.ranges);
        });
        const question = stream.slice(60, 70);
        // One token always waits; then as much has been run as when the question waits in its place.
        await session.append(auto ? stream.slice(0, 200) : stream);
        if (auto) await session.append(question);
        else await session.recall(question);
        await collect(session.generate({ ...greedy, maxTokens: 12 }));
        await expectAccount(session);
      }
      expect(brought).toHaveLength(2);
      expect(brought[0]).toEqual(brought[1]);
      if (by !== "keys") expect(brought[0]!.some(([from, to]) => from <= 60 && 69 <= to)).toBe(true);
    },
  );

  it("is saved with its blocks and goes on, restored or forked, to the same tokens", async () => {
    const model = await open();
    const options = { cache: sinks({ window: 48 }), recall: { ...RECALL, by: "both" } } as const;
    const { memoryBytes } = await model.session(options).opened;
    const session = model.session({ ...options, memory: 3 * memoryBytes });
    const stream = tokens(300);
    await session.append(stream);
    const path = join(folder, "recalling.mill");
    await session.save(path);
    await session.append(stream.slice(40, 50));
    await session.save(path);
    const fork = await session.fork();
    const restored = await model.restore(path);
    const names = (await readdir(folder)).filter((name) => name.startsWith("recalling.mill"));
    expect(names).toHaveLength(2);
    const answers: number[][] = [];
    for (const each of [session, fork, restored]) {
      const answer = await collect(each.generate({ ...greedy, maxTokens: 8 }));
      await each.append(stream.slice(120, 128));
      answers.push([...answer, ...(await collect(each.generate({ ...greedy, maxTokens: 8 })))]);
      await expectAccount(each);
    }
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
    expect((await restored.opened).recall).toEqual((await session.opened).recall);
  });

  it("goes on without blocks that were deleted, and says so", async () => {
    const model = await open(createNull);
    const session = model.session({ cache: window({ tokens: 48 }), recall: RECALL });
    await session.append(tokens(300));
    const path = join(folder, "lost.mill");
    await session.save(path);
    const { demoted } = await session.inspect();
    for (const name of await readdir(folder)) {
      if (name.startsWith("lost.mill.tier")) await rm(join(folder, name), { recursive: true });
    }
    const restored = await model.restore(path);
    const { tier, ...report } = await restored.inspect();
    expect(tier?.problem?.code).toBe("FILE_NOT_FOUND");
    expect(report).toMatchObject({ demoted: 0, dropped: demoted });
    await restored.append(tokens(10));
    expect(await collect(restored.generate({ ...greedy, maxTokens: 5 }))).toHaveLength(5);
    await expectAccount(restored);
  });

  it("stays within its memory, and says what is too little", async () => {
    const model = await open(createNull);
    const cache = sinks({ window: 48 });
    const needs = (await model.session({ cache, recall: RECALL }).opened).memoryBytes;
    expect((await model.session({ cache, recall: RECALL, memory: needs }).opened).memoryBytes).toBe(needs);
    expect(needs).toBeGreaterThan((await model.session({ cache }).opened).memoryBytes);
    const small = model.session({ cache, recall: { ...RECALL, memory: "64 KiB" }, memory: needs - 1 });
    await expect(small.opened).rejects.toEqual(code("OUT_OF_BUDGET"));
    await expect(model.session({ cache, recall: { ...RECALL, disk: 1000 } }).opened).rejects.toEqual(
      code("OUT_OF_BUDGET"),
    );
    await expect(model.session({ cache: full(), recall: RECALL }).opened).rejects.toEqual(
      code("INVALID_ARGUMENT"),
    );
    await expect(model.session({ cache }).recall("What?")).rejects.toEqual(code("INVALID_ARGUMENT"));
    await expect(model.session({ cache, recall: RECALL }).recall()).rejects.toEqual(code("INVALID_ARGUMENT"));
    for (const wrong of [
      {},
      { disk: -1 },
      { ...RECALL, block: 20 },
      { ...RECALL, by: "luck" },
      { ...RECALL, tokens: 8 },
    ]) {
      expect(() => model.session({ cache, recall: wrong as never })).toThrow(code("INVALID_ARGUMENT"));
    }
    const model2 = await open(createNull);
    const chosen = model2.session({ recall: RECALL, memory: "1 MiB" });
    expect((await chosen.opened).cache.policy.policy).toBe("sinks");
  });

  it("leaves an answer that is broken off while it recalls", async () => {
    const model = await open(createNull);
    const session = model.session({ cache: sinks({ window: 48 }), recall: RECALL });
    await session.append(tokens(300));
    const abort = new AbortController();
    const answer = session.generate({ ...greedy, maxTokens: 50, signal: abort.signal });
    const first = answer[Symbol.asyncIterator]().next();
    abort.abort();
    await expect(first).rejects.toEqual(code("ABORTED"));
    expect(await collect(session.generate({ ...greedy, maxTokens: 5 }))).toHaveLength(5);
  });
});

describe.skipIf(!stories.here)("on a real model (the test data holds none)", () => {
  it("finds the block that a repeated sentence stands in, by words, and by words and keys", async () => {
    const model = await openLocal({ threads: 1, backend: "wasm" }, stories.path);
    models.push(model);
    const names = ["Tim", "Lily", "Ben", "Mia", "Tom", "Anna", "Max", "Sue"];
    const things = ["ball", "cake", "boat", "hat", "kite", "dog", "cat", "car"];
    const day = (i: number) =>
      `One day, ${names[i % 8]} went to the park with a red ${things[(i * 3) % 8]}. They played and had fun. `;
    const fact = "The old king hid a golden key under the tree. ";
    for (const by of ["tokens", "both"] as const) {
      const session = model.session({
        cache: sinks({ window: 124 }),
        recall: { disk: "64 MiB", tokens: 96, by, auto: false },
      });
      let at = 0;
      for (let i = 0; i < 60; i++) {
        if (i === 12) at = session.report.seen + session.report.waiting;
        await session.append(i === 12 ? fact : day(i));
      }
      const { ranges } = await session.recall("The old king hid a golden key");
      const found = ranges[0]!.some(([first, last]) => first <= at + 12 && at + 4 <= last);
      expect([by, found]).toEqual([by, true]);
      await session.close();
    }
  });
});
