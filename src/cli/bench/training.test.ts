import { mkdtempSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { built, cli } from "../../../test/support/cli.js";

const json = async (...args: string[]) => {
  const { code, stdout, stderr } = await cli(["bench", ...args, "--json"]);
  expect([code, code === 0 ? "" : stderr]).toEqual([0, ""]);
  return JSON.parse(stdout);
};

describe.skipIf(!built)("benches of training (need npm run build)", () => {
  let folder: string;
  let text: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "millrace-training-bench-"));
    text = join(folder, "text.txt");
    await writeFile(text, "The boat is red. The boat is at the pier. The pier is wet.\n".repeat(60));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("training-memory: the longest sequence in each way, and steps whose peak is the plan's", async () => {
    // Of 1 GiB real steps would take minutes; so they would on the reference backend.
    const { planned, measured, same, budget, measuredBudget } = await json(
      ...["training-memory", "--memory", "48 MiB", "--chunk", "16", "--backend", "wasm"],
    );
    expect([budget, measuredBudget]).toEqual([48 * 2 ** 20, 3 * 2 ** 20]);
    for (const { tokens, tokensWithAllLogits } of planned) {
      expect(tokens.stream).toBeGreaterThan(tokens.recompute);
      expect(tokens.recompute).toBeGreaterThan(tokens.keep);
      expect(tokensWithAllLogits).toBeLessThanOrEqual(tokens.recompute);
    }
    const modes = ["keep", "recompute", "stream", "sparse"];
    for (const steps of [measured, same]) {
      expect(steps.map(({ mode }: { mode: string }) => mode)).toEqual(modes);
      for (const { plannedBytes, peakBytes } of steps) expect(peakBytes).toBe(plannedBytes);
    }
    const little = await cli(["bench", "training-memory", "--memory", "8 MiB", "--backend", "reference"]);
    expect([little.code, little.stderr]).toEqual([2, expect.stringContaining("no room for 16 tokens")]);
    expect(new Set(same.map(({ tokens }: { tokens: number }) => tokens)).size).toBe(1);
  });

  it("optimisers: loss, state and speed of each in one table, from noise or from a model", async () => {
    const args = [
      ...["optimisers", "--data", text, "--steps", "3", "--width", "32", "--layers", "1"],
      ...["--length", "16", "--batch", "64", "--vocabulary", "270", "--backend", "reference"],
    ];
    const { rows, firstHeldOutLoss } = await json(...args);
    const names = ["adamw", "muon", "apollo", "apollo-mini", "mezo"];
    expect(rows.map(({ optimiser }: { optimiser: string }) => optimiser)).toEqual(names);
    const state = Object.fromEntries(
      rows.map((row: { optimiser: string; stateBytes: number }) => [row.optimiser, row.stateBytes]),
    );
    const [{ parameters }] = rows;
    // Two numbers a weight; none.
    expect(state.adamw).toBe(8 * parameters);
    expect(state.mezo).toBe(0);
    expect(state["apollo-mini"]).toBeLessThan(state.apollo);
    expect(state.apollo).toBeLessThan(state.adamw);
    expect(firstHeldOutLoss).toBeGreaterThan(4);
    for (const { tokensPerSecond, heldOutLoss } of rows) {
      expect(tokensPerSecond).toBeGreaterThan(0);
      expect(heldOutLoss).toBeGreaterThan(0);
    }
    const small = "models/harbour-small.gguf";
    const on = await json(...args, "--init", small, "--optimiser", "mezo");
    expect(on.rows[0]).toMatchObject({ optimiser: "mezo", stateBytes: 0, parameters: 713_600 });
  });
});
