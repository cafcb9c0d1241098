import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
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

  it("decodes under cache policies in turn, beside the full cache and an empty one", async () => {
    const caches = ["--cache", "razor:window=16,echo=0,induction=0.5", "--cache", "duo,sinks:window=16"];
    const sizes = [
      "--context",
      "256,64",
      "--share",
      "0.75",
      "--generate",
      "3",
      "--runs",
      "2",
      "--threads",
      "1",
    ];
    const run = [...["bench", "cache", model, ...sizes, ...caches, ...ON], "--json"];
    const { code, stdout, stderr } = await cli(run);
    expect([code, stderr]).toEqual([0, expect.stringContaining("run 2 of 2, 256 tokens: full ")]);
    interface Row {
      readonly name: string;
      readonly heads: object | null;
      readonly bytes: number;
      readonly timesSmaller: number;
      readonly msPerToken: number;
      readonly cpuMsPerToken: number;
    }
    const report = JSON.parse(stdout) as {
      contexts: { context: number; rows: Row[]; rounds: { bytes: number }[][] }[];
    };
    expect(report).toMatchObject({ complete: true, unfit: [], codec: "f16", generate: 3 });
    expect(report.contexts.map(({ context }) => context)).toEqual([64, 256]);
    for (const { rows, rounds } of report.contexts) {
      const names = ["full", "razor:window=16,echo=0,induction=0.5", "duo", "sinks:window=16", "empty"];
      expect(rows.map(({ name }) => name)).toEqual(names);
      expect(rounds.map((turns) => turns.length)).toEqual([5, 5]);
      const drawn = { whole: 1, of: 2, drawn: true };
      expect(rows.map(({ heads }) => heads)).toEqual([null, drawn, drawn, null, null]);
      for (const { msPerToken, cpuMsPerToken } of rows) {
        expect(msPerToken).toBeGreaterThan(0);
        expect(cpuMsPerToken).toBeGreaterThan(0);
      }
    }
    const [whole, razor, duo, sinks, empty] = report.contexts[1]!.rows.map(({ bytes }) => bytes) as [
      ...[number, number, number, number, number],
    ];
    // Half of the heads keep everything; the others 16 tokens, or as many as make 192 of 256 on average.
    expect(razor).toBeLessThan(0.65 * whole);
    expect(razor).toBeGreaterThan(0.5 * whole);
    expect(duo).toBeGreaterThan(razor);
    expect(duo).toBeLessThan(0.9 * whole);
    expect(sinks).toBeLessThan(razor);
    expect(empty).toBeLessThan(0.3 * whole);
    const { rows, rounds } = report.contexts[1]!;
    const [first, second] = rounds.map((turns) => turns[0]!.bytes / turns[1]!.bytes) as [number, number];
    expect(rows[1]!.timesSmaller).toBe((first + second) / 2);
  });

  it("takes the heads that were found, and says of which policies it drew them", async () => {
    const known = at("known.gguf");
    await copyFile(model, known);
    expect((await cli(["heads", known, ...ON])).code).toBe(0);
    const sizes = ["--context", "128", "--share", "0.75", "--generate", "2", "--runs", "1", "--threads", "1"];
    const caches = ["--cache", "razor:window=16,duo"];
    const { code, stdout } = await cli(["bench", "cache", known, ...sizes, ...caches, ...ON]);
    expect(code).toBe(0);
    const columns = ["whole heads", "bytes", "smaller", "a token", "faster", "of processors", "of bandwidth"];
    expect(stdout).toMatch(new RegExp(`^ +cache +${columns.join(" +")} +read in$`, "m"));
    expect(stdout).toMatch(
      /^ +razor:window=16 +[12] of 2 +[\d.]+ KiB +[\d.]+x +[\d.]+ ms +[\d.]+x +[\d.]+ ms +\d+ % +[\d.]+ s$/m,
    );
    expect(stdout).toMatch(/^Which heads are whole under duo was drawn at random \(seed 1\)/m);
  });

  it("refuses what cannot be measured before it loads anything", async () => {
    const refused = async (...args: string[]) => {
      const { code, stdout } = await cli(["bench", "cache", model, ...ON, ...args, "--json"]);
      return [code === 0, JSON.parse(stdout).error.code, JSON.parse(stdout).error.message];
    };
    const message = (text: string) => [false, "INVALID_ARGUMENT", expect.stringContaining(text)];
    expect(await refused("--generate", "1")).toEqual(message("--generate is 1"));
    expect(await refused("--context", "20")).toEqual(message("A cache of 10 tokens is too small"));
    expect(await refused("--cache", "sink")).toEqual(message('Unknown cache policy "sink"'));
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
