import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import { writeWorldModel } from "../../test/support/world-model.js";

describe.skipIf(!built)("millrace evaluate (needs npm run build)", () => {
  let folder: string;
  let model: string;
  const at = (name: string) => join(folder, name);
  const evaluate = (name: string, ...args: string[]) =>
    cli(["evaluate", name, model, ...args, "--backend", "reference"]);
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-evaluate-cli-"));
    model = at("tiny.gguf");
    await writeWorldModel(model);
    await writeFile(at("text.txt"), "The boat lies at the pier, and Mara is on board. ".repeat(200));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("reads a text under several policies: a table, the figures, and a picture", async () => {
    const files = ["--out", at("p.json"), "--plot", at("p.svg")];
    const args = [
      at("text.txt"),
      "--tokens",
      "1500",
      "--budget",
      "100",
      "--cache",
      "sinks,window",
      "--segments",
      "3",
    ];
    const { code, stdout } = await evaluate("perplexity", ...args, ...files);
    expect(code).toBe(0);
    expect(stdout).toMatch(/tokens +sinks +window +anew/);
    expect(stdout).toMatch(/1,000 to 1,500 +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d/);
    const { caches } = JSON.parse(await readFile(at("p.json"), "utf8")) as { caches: object[] };
    expect(caches).toMatchObject([
      { name: "sinks", tokens: 1500, policy: { policy: "sinks", window: 96 } },
      { name: "window", tokens: 1500, policy: { policy: "window", tokens: 100 } },
      { name: "anew", tokens: 1500, policy: null, besideAnew: 1 },
    ]);
    expect(await readFile(at("p.svg"), "utf8")).toMatch(/^<svg [\s\S]*>window<[\s\S]*<\/svg>\n$/);
  });

  it("asks what caches still know, in logs of their own and in one", async () => {
    const caches = ["--cache", "full,sinks", "--json"];
    const windows = await evaluate(
      "recall",
      "--questions",
      "3",
      "--within",
      "150",
      "--share",
      "0.2,0.5",
      ...caches,
    );
    expect([windows.code, windows.stderr]).toEqual([0, ""]);
    expect(JSON.parse(windows.stdout)).toMatchObject({
      within: 150,
      results: [
        { name: "full", budget: null, questions: 3 },
        { name: "sinks 20 %", budget: 30, questions: 3 },
        { name: "sinks 50 %", budget: 75, questions: 3 },
      ],
    });
    const stream = await evaluate(
      "recall",
      ...[
        "--tokens",
        "600",
        "--questions",
        "10",
        "--budget",
        "64",
        "--recall",
        "disk=8MiB,tokens=32",
        "--within",
        "150",
        ...caches,
      ],
    );
    expect(JSON.parse(stream.stdout)).toMatchObject({
      tokens: 600,
      results: [{ name: "full" }, { name: "sinks" }, { name: "sinks + disk" }, { name: "full, last 150" }],
    });
  });

  it("runs a session for as long as asked", async () => {
    const { code, stdout } = await evaluate(
      "soak",
      "--tokens",
      "1200",
      "--every",
      "200",
      "--cache",
      "sinks:window=60",
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(/resident memory of the process +\d+/);
    expect(stdout).toMatch(/first tenth: of what follows a warm-up of 1\d\d tokens/);
    expect(stdout).toMatch(/seen 1,\d+ = kept \d+ \+ merged 0 \+ on disk 0 \+ dropped 1,\d+/);
  });

  it("times sinks against recomputing, and saving", async () => {
    const recompute = await evaluate(
      "recompute",
      "--window",
      "64",
      "--runs",
      "1",
      "--tokens",
      "4",
      "--windows",
      "1",
    );
    expect(recompute.stdout).toMatch(/64 +[\d.]+ ms +[\d.]+ ms +[\d.]+ x/);
    const saving = await evaluate("saving", "--memory", "200KiB", "--runs", "1");
    expect(saving.stdout).toContain("The restored session said the same next 128 tokens.");
  });

  it.each([
    ["recall", "--share", "2"],
    ["recall", "--share", "0.5", "--budget", "100"],
    ["recall", "--cache", "sinc"],
    ["recall", "--budget", "200", "--recall", "1GiB"],
    ["recall", "--recall", "disk=1GiB,by"],
    ["perplexity", "text.txt", "--tokens", "0"],
    ["soak", "--mode", "sleep"],
  ])("refuses wrong usage with exit code 2: %s %s %s", async (name, ...args) => {
    expect(await evaluate(name, ...args)).toMatchObject({ code: 2, stdout: "" });
  });
});
