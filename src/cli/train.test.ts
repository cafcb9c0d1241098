import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli, ending, start } from "../../test/support/cli.js";

describe.skipIf(!built)("millrace train (needs npm run build)", () => {
  let folder: string;
  let text: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "millrace-train-cli-"));
    text = join(folder, "text.txt");
    await writeFile(text, "The boat is red. The boat is at the pier. The pier is wet.\n".repeat(60));
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** A run of 24 steps that saves after each. */
  const args = (name: string, ...more: string[]) => [
    ...["train", "--data", text, "--out", join(folder, `${name}.gguf`), "--backend", "reference"],
    ...["--width", "16", "--layers", "1", "--heads", "2", "--vocabulary", "270", "--length", "16"],
    ...["--batch", "64", "--steps", "24", "--every", "1", "--evaluate", "6", ...more],
  ];
  const file = (name: string) => readFileSync(join(folder, name));
  const checkpoints = (name: string): string[] => {
    try {
      return readdirSync(join(folder, `${name}.training`));
    } catch {
      return [];
    }
  };

  let straight: Promise<unknown>;
  const finishStraight = () => {
    straight ??= cli(args("straight"));
    return straight;
  };

  it("writes a model, its curve and a log, and says how it went", async () => {
    const log = join(folder, "log.jsonl");
    const { code, stdout, stderr } = await cli(args("logged", "--log", log, "--json"));
    expect(code).toBe(0);
    expect(stderr).toContain("reference");
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ steps: 24, tokens: 24 * 64, curve: join(folder, "logged.svg") });
    const events = file("log.jsonl")
      .toString()
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.filter(({ kind }) => kind === "step").map(({ step }) => step)).toEqual(
      Array.from({ length: 24 }, (_, i) => i + 1),
    );
    expect(events.filter(({ kind }) => kind === "evaluated").map(({ step }) => step)).toEqual([
      6, 12, 18, 24,
    ]);
    expect(events.findLast(({ kind }) => kind === "step").loss).toBeCloseTo(result.loss, 5);
    expect(file("logged.svg").toString()).toContain(`held out (${result.heldOutLoss.toFixed(3)})`);
    const ran = await cli(["run", join(folder, "logged.gguf"), "--prompt", "The boat", "--max-tokens", "4"]);
    expect(ran.code).toBe(0);
  });

  it("leaves a good checkpoint whenever it is killed, and ends with the same bits", async () => {
    const isWriting = () => checkpoints("killed").some((name) => name.endsWith(".tmp"));
    const moments: ((child: ChildProcess) => Promise<void>)[] = [
      // In the middle of a write, twice; between two; and at any time.
      (child) => until(isWriting, child),
      (child) => until(() => checkpoints("killed").includes("checkpoint.safetensors") && !isWriting(), child),
      async (child) => {
        await until(() => checkpoints("killed").length > 0, child);
        await wait(40);
        await until(isWriting, child);
      },
      () => wait(700),
    ];
    for (const moment of moments) {
      const child = start(args("killed", "--resume"));
      const end = ending(child);
      await moment(child);
      child.kill("SIGKILL");
      const { stderr } = await end;
      expect(stderr).not.toContain("BAD_FORMAT");
    }
    const { code, stderr } = await cli(args("killed", "--resume"));
    expect(stderr).toMatch(/goes on after step \d+/);
    expect(code).toBe(0);
    expect(checkpoints("killed")).toEqual(["checkpoint.safetensors"]);
    await finishStraight();
    expect(file("killed.gguf")).toEqual(file("straight.gguf"));
  });

  const signals = ["SIGINT", "SIGTERM"] as const;
  it.each(signals)(
    "saves and stops at %s, refuses to start over it, and resumes to the same bits",
    async (signal) => {
      const child = start(args(signal, "--every", "1000"));
      const end = ending(child);
      let said = "";
      child.stderr!.on("data", (part: string) => {
        said += part;
      });
      await until(() => said.includes("step 1/"), child);
      child.kill(signal);
      const { code, stderr } = await end;
      expect(stderr).toMatch(/ABORTED: Training stopped after step \d+ of 24/);
      expect(code).toBe(130);
      const again = await cli(args(signal, "--every", "1000"));
      expect(again.stderr).toContain("is there already");
      expect(again.code).toBe(2);
      expect((await cli(args(signal, "--every", "1000", "--resume"))).code).toBe(0);
      await finishStraight();
      expect(file(`${signal}.gguf`)).toEqual(file("straight.gguf"));
    },
  );

  it.skipIf(process.platform === "win32")("keeps the old checkpoint when the disk is full", async () => {
    const child = start(args("full"));
    const end = ending(child);
    await until(() => checkpoints("full").includes("checkpoint.safetensors"), child);
    child.kill("SIGINT");
    await end;
    const before = file("full.training/checkpoint.safetensors");
    // A limit on the size of files answers as a full disk does, in the middle of the write.
    const command = 'ulimit -f 20; trap "" XFSZ; exec "$0" "$@"';
    const limited = spawn("bash", [
      "-c",
      command,
      process.execPath,
      "bin/millrace",
      ...args("full", "--resume"),
    ]);
    const { code, stderr } = await ending(limited);
    expect(stderr).toMatch(/WRITE_FAILED: Cannot write .*checkpoint\.safetensors/);
    expect(code).toBe(5);
    expect(checkpoints("full")).toEqual(["checkpoint.safetensors"]);
    expect(file("full.training/checkpoint.safetensors")).toEqual(before);
  });

  const usage: [args: string[], code: number, said: string][] = [
    [["train", "--out", "a.gguf"], 2, "required option '--data"],
    [["train", "--data", "none.txt", "--out", "a.gguf"], 2, "--steps or --tokens"],
    [["train", "--data", "none.txt", "--out", "a.gguf", "--steps", "2"], 3, "none.txt"],
    [["train", "--data", "a", "--out", "b", "--steps", "2", "--length", "8,16"], 2, "256:0.7,1024:0.3"],
    [["train", "--data", "a", "--out", "b", "--steps", "2", "--memory", "chunk"], 2, "chunk=N"],
    [["train", "--data", "a", "--out", "b", "--steps", "2", "--tokens", "9"], 2, "cannot be used with"],
  ];
  it.each(usage)("refuses %j", async (line, code, said) => {
    const result = await cli(line);
    expect(result.stderr).toContain(said);
    expect(result.code).toBe(code);
  });
});

/** Looks again and again, until it holds or the child has ended. */
async function until(holds: () => boolean, child: ChildProcess): Promise<void> {
  while (!holds() && child.exitCode === null) await wait(1);
}
