/** A process that dies while it saves: the last good file stays readable. From the built package. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { open } from "../../dist/index.js";
import { TestRandom } from "../support/random.js";
import { tinyModel, writeTinyGguf } from "../support/tiny-models.js";

const script = fileURLToPath(new URL("../support/saving-process.js", import.meta.url));
const ROUNDS = 20;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-kill-"));
});
afterAll(() => rm(folder, { recursive: true }));

it("leaves the last good file, whenever it is killed", { timeout: 120_000 }, async () => {
  const source = join(folder, "tiny.gguf");
  const path = join(folder, "session.mill");
  await writeTinyGguf(tinyModel("llama"), source);
  await using model = await open(source, { backend: "null" });
  const random = new TestRandom(4);
  const left = async () => (await readdir(folder)).filter((name) => name.endsWith(".tmp")).length;
  let interrupted = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const child = spawn(process.execPath, [script, source, path], { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    // Saves follow one another without a pause: a moment drawn from several of them lies anywhere in one.
    await pause(random.below(80));
    child.kill("SIGKILL");
    await once(child, "close");
    interrupted += await left();
    const session = await model.restore(path);
    const { seen, kept, waiting } = session.report;
    expect(seen + waiting).toBeGreaterThanOrEqual(20_000);
    expect(kept).toBe(seen);
    expect(await session.append([7, 8, 9])).toBe(3);
    // What the dead process left behind goes with the next save.
    await session.save(path);
    expect(await left()).toBe(0);
    await session.close();
  }
  expect(interrupted).toBeGreaterThan(ROUNDS / 4);
});
