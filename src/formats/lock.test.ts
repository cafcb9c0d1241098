import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Lock } from "./lock.js";

describe("a lock", () => {
  let folder: string;
  let path: string;
  let files = 0;
  const children: ChildProcess[] = [];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-lock-"));
  });
  afterAll(async () => {
    for (const child of children) child.kill("SIGKILL");
    await rm(folder, { recursive: true });
  });

  /** What a lock of this process says, with other words in some places. */
  async function holderOf(more: object = {}): Promise<string> {
    path = join(folder, `${files++}.jsonl`);
    await using _lock = await Lock.take(path);
    const holder = JSON.parse(await readFile(`${path}.lock`, "utf8")) as object;
    return JSON.stringify({ ...holder, ...more });
  }
  const names = async () => (await readdir(folder)).filter((name) => name.startsWith(basename(path)));

  /** A process that lives until it is killed. */
  async function living(): Promise<ChildProcess> {
    const child = spawn(process.execPath, ["-e", "console.log(1); setInterval(() => {}, 1000)"]);
    children.push(child);
    await once(child.stdout!, "data");
    return child;
  }

  it("is held by one, who is named to the others, until it is given back", async () => {
    path = join(folder, "one.jsonl");
    const lock = await Lock.take(path);
    await expect(Lock.take(path)).rejects.toMatchObject({
      code: "IN_USE",
      message: expect.stringContaining(`this very process (${process.pid})`),
      details: { path, pid: process.pid, host: hostname(), since: expect.stringMatching(/^\d{4}-/) },
    });
    await lock[Symbol.asyncDispose]();
    expect(await names()).toEqual([]);
    await using _again = await Lock.take(path);
  });

  it("is had by exactly one of many who want it at once, also where one was left behind", async () => {
    for (const left of [null, await holderOf({ pid: 2 ** 22 + 1 })]) {
      path = join(folder, `many-${left === null}.jsonl`);
      if (left !== null) await writeFile(`${path}.lock`, left);
      const tried = await Promise.allSettled(Array.from({ length: 8 }, () => Lock.take(path)));
      const locks = tried.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
      expect(locks).toHaveLength(1);
      for (const one of tried) if (one.status === "rejected") expect(one.reason.code).toBe("IN_USE");
      await locks[0]![Symbol.asyncDispose]();
      expect(await names()).toEqual([]);
    }
  });

  it("is held by another process while that lives, and taken over when it was killed", async () => {
    const child = await living();
    const left = await holderOf({ pid: child.pid, started: null });
    await writeFile(`${path}.lock`, left);
    await expect(Lock.take(path)).rejects.toMatchObject({
      code: "IN_USE",
      message: expect.stringContaining(`process ${child.pid} on ${hostname()}, since `),
    });
    expect(await readFile(`${path}.lock`, "utf8")).toBe(left);
    child.kill("SIGKILL");
    await once(child, "close");
    await using _lock = await Lock.take(path);
    expect(await names()).toEqual([`${basename(path)}.lock`]);
  });

  it.skipIf(process.platform !== "linux")(
    "is not held by a process that got an old one's number",
    async () => {
      const child = await living();
      await writeFile(`${path}.lock`, await holderOf({ pid: child.pid, started: "a boot long ago 17" }));
      await using _lock = await Lock.take(path);
    },
  );

  it("of another machine is held while it moves, and left behind when it does not", async () => {
    const left = await holderOf({ host: "elsewhere pid:[1]", pid: process.pid });
    await writeFile(`${path}.lock`, left);
    const beat = setInterval(() => void utimes(`${path}.lock`, new Date(), new Date()), 10);
    await expect(Lock.take(path, { silenceMs: 20_000 })).rejects.toMatchObject({
      code: "IN_USE",
      message: expect.stringContaining("on elsewhere, since "),
    });
    clearInterval(beat);
    await using _lock = await Lock.take(path, { silenceMs: 20 });
  });

  it("that nobody wrote to its end is left behind", async () => {
    await holderOf();
    await writeFile(`${path}.lock`, "");
    await using _lock = await Lock.take(path, { silenceMs: 20 });
  });

  it("is not taken from the one who came after somebody deleted it", async () => {
    path = join(folder, "deleted.jsonl");
    const first = await Lock.take(path);
    await rm(`${path}.lock`);
    const second = await Lock.take(path);
    await first[Symbol.asyncDispose]();
    await expect(Lock.take(path)).rejects.toMatchObject({ code: "IN_USE" });
    await second[Symbol.asyncDispose]();
  });

  it("cannot be had where nothing can be written", async () => {
    await expect(Lock.take(join(folder, "nowhere", "x"))).rejects.toMatchObject({ code: "WRITE_FAILED" });
  });
});
