import { execFileSync, spawn } from "node:child_process";
import { closeSync, constants, existsSync, openSync, readFileSync, readSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LogWriter } from "./log.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-log-"));
});
afterAll(() => rm(folder, { recursive: true }));

const lines = Array.from({ length: 3000 }, (_, i) => `${JSON.stringify({ i, pad: "é".repeat(i % 90) })}\n`);
const whole = lines.join("");

describe("a log", () => {
  it("is written behind, in order", async () => {
    const path = join(folder, "behind");
    const fd = openSync(path, "w");
    const log = new LogWriter(fd);
    for (const line of lines) log.write(line);
    // The first may be on its way; the others wait for it.
    expect(readFileSync(path, "utf8").length).toBeLessThanOrEqual(lines[0]!.length);
    await log.flush();
    expect(readFileSync(path, "utf8")).toBe(whole);
    log.write("one more\n");
    await log.flush();
    expect(readFileSync(path, "utf8")).toBe(`${whole}one more\n`);
    closeSync(fd);
  });

  it("is all there, each line once, when it was flushed on the spot", async () => {
    const path = join(folder, "flushed");
    const fd = openSync(path, "a");
    const log = new LogWriter(fd);
    for (const line of lines) log.write(line);
    log.flushSync();
    await log.flush();
    expect(readFileSync(path, "utf8").split("\n").sort()).toEqual(whole.split("\n").sort());
    closeSync(fd);
  });

  it.skipIf(process.platform === "win32")(
    "waits for a reader that is behind, and loses nothing",
    async () => {
      const path = join(folder, "pipe");
      execFileSync("mkfifo", [path]);
      const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
      const log = new LogWriter(fd);
      // More than a pipe holds.
      expect(whole.length).toBeGreaterThan(2 ** 17);
      for (const line of lines) log.write(line);
      let done = false;
      const flushed = log.flush().then(() => {
        done = true;
      });
      const came: Buffer[] = [];
      const read = () => {
        const chunk = Buffer.alloc(1000);
        try {
          came.push(chunk.subarray(0, readSync(fd, chunk)));
        } catch (error) {
          expect((error as NodeJS.ErrnoException).code).toBe("EAGAIN");
        }
      };
      while (!done) {
        read();
        await new Promise((resolve) => setImmediate(resolve));
      }
      await flushed;
      for (let before = -1; before < came.length; read()) before = came.length;
      expect(Buffer.concat(came).toString()).toBe(whole);
      closeSync(fd);
    },
  );

  it("that nobody can write ends nothing", async () => {
    const fd = openSync(join(folder, "closed"), "w");
    closeSync(fd);
    const log = new LogWriter(fd);
    for (const line of lines.slice(0, 10)) log.write(line);
    await log.flush();
    log.write("more\n");
    log.flushSync();
    await log.flush();
  });
});

const built = new URL("../../dist/cli/log.js", import.meta.url);

describe.skipIf(!existsSync(built))("a process that logs (needs npm run build)", { timeout: 60_000 }, () => {
  it.each([
    ["ends by itself", "", 0],
    ["exits", "process.exit(3);", 3],
    ["crashes", 'throw new Error("a bug");', 1],
    ["crashes later", 'setImmediate(() => { throw new Error("a bug"); });', 1],
    ["rejects", 'Promise.reject(new Error("a bug"));', 1],
  ])("has all of its lines when it %s", async (_, end, code) => {
    const text = `
      const { openLog } = await import(${JSON.stringify(built.href)});
      const log = openLog("info");
      for (let i = 0; i < 2000; i++) log.info({ i });
      ${end}`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", text], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let came = "";
    child.stderr.on("data", (part) => {
      came += part;
    });
    const ended = await new Promise((resolve) => child.on("close", resolve));
    expect(ended).toBe(code);
    const logged = came
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line).i);
    expect(logged.sort((a, b) => a - b)).toEqual(Array.from({ length: 2000 }, (_, i) => i));
  });
});
