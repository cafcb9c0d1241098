import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../test/support/cli.js";
import { writeWorldModel } from "../../test/support/world-model.js";

const SAMPLE = fileURLToPath(new URL("../../test/traces/sample.jsonl", import.meta.url));
const ON = ["--backend", "reference"];

describe.skipIf(!built)("millrace bench (needs npm run build)", () => {
  let folder: string;
  let model: string;
  const at = (name: string) => join(folder, name);
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "millrace-bench-cli-"));
    model = at("tiny.gguf");
    await writeWorldModel(model);
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("replays a trace: with the tree it takes over all that came before, without nothing", async () => {
    const sizes = ["--requests", "12", "--context", "512", "--speed", "1000", "--sequences", "2"];
    const { code, stdout, stderr } = await cli([
      ...["bench", "trace", SAMPLE, model, ...sizes, ...ON],
      ...["--out", at("trace.json")],
    ]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("run 1, without: 12 answers")]);
    expect(stdout).toMatch(/with the prefix tree +\d/);
    const report = JSON.parse(await readFile(at("trace.json"), "utf8")) as Record<string, never>;
    expect(report).toMatchObject({ requests: 12, complete: true, rounds: [{ shared: { answered: 12 } }] });
    const { withTree, without, possibleHits } = report as unknown as {
      withTree: { hits: number };
      without: { hits: number };
      possibleHits: number;
    };
    expect(without.hits).toBe(0);
    expect(withTree.hits).toBeGreaterThan(0);
    expect(withTree.hits).toBeLessThanOrEqual(possibleHits + 0.02);
  });

  it("names the line of a trace that is none, and what else is wrong", async () => {
    await writeFile(
      at("bad.jsonl"),
      `${(await readFile(SAMPLE, "utf8")).split("\n")[0]}\n{"timestamp": 3}\n`,
    );
    const { code, stdout } = await cli(["bench", "trace", at("bad.jsonl"), model, "--json"]);
    expect(code).toBe(4);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: "BAD_FORMAT", details: { line: 2 } } });
    const missing = await cli(["bench", "trace", at("none.jsonl"), model, "--json"]);
    expect(JSON.parse(missing.stdout)).toMatchObject({ error: { code: "FILE_NOT_FOUND" } });
    const large = await cli([
      "bench",
      "trace",
      SAMPLE,
      model,
      ...ON,
      "--context",
      "64",
      "--scale",
      "1",
      "--json",
    ]);
    expect(JSON.parse(large.stdout)).toMatchObject({
      error: { code: "INVALID_ARGUMENT", details: { name: "scale" } },
    });
  });

  it("answers a batch in three orders, the planned one with most shared", async () => {
    const shape = ["--prompts", "24", "--groups", "4", "--prefix", "64", "--suffix", "4", "--answer", "2"];
    const { code, stdout } = await cli([
      "bench",
      "batch",
      model,
      ...shape,
      ...ON,
      "--sequences",
      "2",
      "--json",
    ]);
    expect(code).toBe(0);
    const { orders } = JSON.parse(stdout) as { orders: Record<string, { shared: number }> };
    expect(orders.alone!.shared).toBe(0);
    // The first of each group runs the prefix; more where one begins before that is through.
    const most = (20 * 64) / (24 * 68);
    expect(orders.planned!.shared).toBeGreaterThan(most / 2);
    expect(orders.planned!.shared).toBeLessThan(most + 0.01);
    expect(orders.lru!.shared).toBeLessThan(orders.planned!.shared);
  });

  it("lets a prompt arrive beside streams", async () => {
    const sizes = ["--streams", "2", "--prefill", "64", "--prompt", "4", "--settle", "2", "--room", "200"];
    const { code, stdout } = await cli([
      "bench",
      "stall",
      model,
      ...sizes,
      ...ON,
      "--runs",
      "1",
      "--max-stall",
      "1000ms",
      "--json",
    ]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as { sides: { name: string; longestGapMs: number }[] };
    expect(report).toMatchObject({ boundMs: 1000, complete: true, stalls: { boundMs: 1000 } });
    expect(report.sides.map(({ name }) => name)).toEqual(["millrace, at most 1000 ms", "millrace, no bound"]);
    for (const { longestGapMs } of report.sides) expect(longestGapMs).toBeGreaterThan(0);
  });

  it("measures a server with clients, and draws it", async () => {
    const sizes = ["--clients", "6", "--active", "2", "--time", "2s", "--answer", "2", "--threads", "1"];
    const { code, stdout } = await cli([
      "bench",
      "clients",
      model,
      ...sizes,
      ...ON,
      "--json",
      "--plot",
      at("clients.svg"),
    ]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as { answered: number; tokens: number };
    expect(report).toMatchObject({ clients: 6, complete: true, errors: {}, open: 6, reconnected: 0 });
    expect(report.answered).toBeGreaterThan(0);
    expect(report.tokens).toBe(2 * report.answered);
    expect(await readFile(at("clients.svg"), "utf8")).toMatch(/Memory of the server[\s\S]*Event loop delay/);
  });
});
