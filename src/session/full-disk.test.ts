/** Disks that fill up, and folders that somebody removes, under sessions that live on. */
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import { disk } from "../../test/support/small-disk.js";
import type { CacheEvent } from "../cache/sequence.js";
import type { Piece } from "../engine/generation.js";
import { sinks } from "../engine/policies.js";
import type { Model } from "./model.js";
import type { Session } from "./session.js";

vi.mock("node:fs", async (original) =>
  (await import("../../test/support/small-disk.js")).smallDisk(await original()),
);
vi.mock("node:fs/promises", async (original) =>
  (await import("../../test/support/small-disk.js")).smallDiskPromises(await original()),
);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-full-disk-"));
});
afterAll(() => rm(folder, { recursive: true }));

const models: Model[] = [];
afterEach(async () => {
  disk.left = Number.POSITIVE_INFINITY;
  disk.links = true;
  for (const model of models.splice(0)) await model.close();
});
async function open(): Promise<Model> {
  const model = await openNull();
  models.push(model);
  return model;
}

const code = (name: string) => expect.objectContaining({ code: name });
const random = new TestRandom(6);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));
async function answer(session: Session, maxTokens = 4): Promise<number[]> {
  const all: number[] = [];
  const pieces: AsyncIterable<Piece> = session.generate({ ignoreEos: true, maxTokens });
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}

/** A session that recalls, in a folder of its own, and what was told of its tokens so far. */
async function recalling(model: Model) {
  const dir = await mkdtemp(join(folder, "dir-"));
  const session = model.session({
    cache: sinks({ window: 48 }),
    recall: { disk: "4 MiB", memory: "64 KiB", tokens: 64, block: 16, dir },
  });
  const told = { demote: 0, drop: 0 };
  session.on("change", (change: CacheEvent) => {
    if (change.kind === "demote" || change.kind === "drop") told[change.kind] += change.count;
  });
  return { dir, session, told };
}

/** Every token that was ever seen is somewhere, and the listener heard of each that is not in memory. */
async function expectAccount(session: Session, told: { demote: number; drop: number }) {
  const { seen, kept, merged, demoted, dropped, tier } = await session.inspect();
  expect(kept + merged + demoted + dropped).toBe(seen);
  expect(merged).toBe(0);
  expect(told.drop).toBe(dropped);
  expect(told.demote).toBe(demoted + dropped);
  return { demoted, dropped, tier };
}

it("lives on where the disk of its tier fills up in mid-stream: what does not fit is told as dropped", async () => {
  const { dir, session, told } = await recalling(await open());
  const stream = tokens(900);
  await session.append(stream.slice(0, 300));
  // Saving waits until all that was demoted is written; what is only queued could still be lost below.
  await session.save(join(dir, "before.mill"));
  const before = await expectAccount(session, told);
  expect(before).toMatchObject({ dropped: 0, tier: { problem: null } });

  disk.left = 5000;
  await session.append(stream.slice(300, 600));
  // The question brings back what was written, and the answer comes.
  await session.append(stream.slice(40, 50));
  expect(await answer(session)).toHaveLength(4);
  const full = await expectAccount(session, told);
  expect(disk.left).toBe(0);
  expect(full.dropped).toBeGreaterThan(100);
  expect(full.demoted).toBeGreaterThanOrEqual(before.demoted);
  expect(full.tier?.problem).toEqual({
    code: "WRITE_FAILED",
    message: expect.stringContaining("their tokens count as dropped"),
  });
  expect(full.tier?.recalledTokens).toBeGreaterThan(0);

  // With room again, nothing more is lost.
  disk.left = Number.POSITIVE_INFINITY;
  await session.append(stream.slice(600));
  await answer(session);
  const after = await expectAccount(session, told);
  expect(after.dropped).toBe(full.dropped);
  expect(after.demoted).toBeGreaterThan(full.demoted + 200);
});

it.each([
  ["links", true],
  ["copies", false],
])("is saved whole or not at all on a full disk (blocks as %s)", async (_, links) => {
  disk.links = links;
  const model = await open();
  const { session } = await recalling(model);
  await session.append(tokens(300));
  const at = await mkdtemp(join(folder, "at-"));
  const path = join(at, "session.mill");
  await session.save(path);
  const names = await readdir(at);
  expect(names).toHaveLength(2);
  const bytes = await readFile(path);
  await session.append(tokens(60));
  for (const left of [0, 20, 3000, 9000]) {
    disk.left = left;
    await expect(session.save(path)).rejects.toEqual(code("WRITE_FAILED"));
    expect(await readdir(at)).toEqual(names);
    expect((await readFile(path)).equals(bytes)).toBe(true);
  }
  disk.left = Number.POSITIVE_INFINITY;
  expect((await model.restore(path)).report.seen).toBe(236);
  expect(await session.append(tokens(10))).toBe(10);
  await session.save(path);
  const restored = await model.restore(path);
  expect((await restored.inspect()).tier?.problem).toBeNull();
  expect(await answer(restored)).toEqual(await answer(session));
});

it("is not restored without its blocks because there is no room for them: they stay where they are", async () => {
  disk.links = false;
  const model = await open();
  const { session, dir } = await recalling(model);
  await session.append(tokens(300));
  const path = join(folder, "crowded.mill");
  await session.save(path);
  disk.left = 2000;
  await expect(model.restore(path)).rejects.toEqual(code("WRITE_FAILED"));
  expect(await readdir(dir)).toHaveLength(1);
  disk.left = Number.POSITIVE_INFINITY;
  const restored = await model.restore(path);
  expect(restored.report).toEqual(session.report);
  expect((await restored.inspect()).tier?.problem).toBeNull();
});

it("lives on where the folder of its tier is deleted in mid-stream, and can be saved", async () => {
  const model = await open();
  const { session, told, dir } = await recalling(model);
  const stream = tokens(700);
  await session.append(stream.slice(0, 300));
  const before = await expectAccount(session, told);
  for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true });
  await session.append(stream.slice(40, 50));
  expect(await answer(session)).toHaveLength(4);
  const asked = await expectAccount(session, told);
  expect(asked.dropped).toBeGreaterThan(0);
  expect(asked.tier?.problem?.code).toBe("FILE_NOT_FOUND");

  const path = join(folder, "deleted.mill");
  await session.save(path);
  const saved = await expectAccount(session, told);
  expect(saved.dropped).toBeGreaterThanOrEqual(before.demoted);
  const restored = await model.restore(path);
  expect(restored.report).toMatchObject({ demoted: saved.demoted, dropped: saved.dropped });

  // From now on it demotes again.
  await session.append(stream.slice(300));
  await session.append(stream.slice(400, 410));
  await answer(session);
  const after = await expectAccount(session, told);
  expect(after.dropped).toBe(saved.dropped);
  expect(after.demoted).toBeGreaterThan(300);
  expect(after.tier?.recalledTokens).toBeGreaterThan(0);
});

it("leaves no folder behind where it cannot be opened", async () => {
  const model = await open();
  const dir = join(folder, "nothing");
  await mkdir(dir);
  const recall = { disk: 1000, dir };
  await expect(model.session({ cache: sinks({ window: 48 }), recall }).opened).rejects.toEqual(
    code("OUT_OF_BUDGET"),
  );
  expect(await readdir(dir)).toEqual([]);
});

it("is told of what a full disk loses also while nothing runs", async () => {
  const model = await open();
  const { session, told } = await recalling(model);
  const stream = tokens(400);
  disk.left = 0;
  // Writing goes on behind the append, when its last step is long over.
  await session.append(stream);
  await expect.poll(() => told.drop).toBeGreaterThan(100);
  const heard = { ...told };
  expect(heard).toEqual(
    await expectAccount(session, told).then(({ dropped }) => ({ ...told, drop: dropped })),
  );
});
