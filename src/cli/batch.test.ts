import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli, ending, start } from "../../test/support/cli.js";

describe.skipIf(!built)("millrace batch (needs npm run build)", () => {
  let folder: string;
  let input: string;
  let output: string;
  const LINES = 40;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-batch-"));
    input = join(folder, "in.jsonl");
    output = join(folder, "out.jsonl");
    const line = (i: number) => ({
      custom_id: `id-${i}`,
      method: "POST",
      url: "/v1/completions",
      body: {
        model: "default",
        prompt: `${i % 2 ? "The Grey Heron " : "Salt "}${i}`,
        max_tokens: 8,
        ignore_eos: true,
      },
    });
    await writeFile(input, Array.from({ length: LINES }, (_, i) => `${JSON.stringify(line(i))}\n`).join(""));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const answers = async () => (await readFile(output, "utf8").catch(() => "")).split("\n").slice(0, -1);
  const args = () => ["batch", input, "-o", output, "--backend", "reference", "--sequences", "2"];

  it("is killed, and goes on: every line is answered once", async () => {
    const child = start(args());
    const ended = ending(child);
    await expect
      .poll(async () => (await answers()).length, { interval: 5, timeout: 50_000 })
      .toBeGreaterThan(2);
    const alias = join(folder, "alias.jsonl");
    await symlink(output, alias);
    const second = await cli(["batch", input, "-o", alias, "--backend", "reference"]);
    expect(second.code).toBe(5);
    expect(second.stderr).toContain("IN_USE");
    expect(second.stderr).toContain(`process ${child.pid} on `);
    child.kill("SIGKILL");
    await ended;
    const before = await answers();
    expect(before.length).toBeLessThan(LINES);
    const { code, stdout } = await cli([...args(), "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      lines: LINES,
      before: before.length,
      answered: LINES - before.length,
      failed: 0,
    });
    expect((await readdir(folder)).filter((name) => name.includes(".lock"))).toEqual([]);
    const after = await answers();
    expect(after.slice(0, before.length)).toEqual(before);
    const ids = after.map((row) => (JSON.parse(row) as { custom_id: string }).custom_id);
    expect(new Set(ids).size).toBe(LINES);
    expect(ids).toHaveLength(LINES);
  });

  it("does not write over its input, nor read what is not there", async () => {
    const same = await cli(["batch", input, "-o", input]);
    expect([same.code, same.stderr]).toEqual([2, expect.stringContaining("is the input")]);
    const none = await cli(["batch", join(folder, "none.jsonl"), "-o", join(folder, "new.jsonl")]);
    expect(none.code).toBe(3);
    await expect(readFile(join(folder, "new.jsonl"))).rejects.toThrow();
  });
});
