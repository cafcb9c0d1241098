import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tinyModel, writeTinyGguf } from "../../../test/support/tiny-models.js";
import { readHeads } from "../../engine/heads-file.js";
import { openCheckpoint } from "../../formats/open.js";
import { buildTape } from "../../models/resolve.js";
import type { StepEvent } from "../trainer.js";
import { type TrainGatesOptions, trainGates } from "./train-gates.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-gates-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const options = (model: string, changes: Partial<TrainGatesOptions> = {}): TrainGatesOptions => ({
  ...{ model, steps: 10, length: 224, sinks: 2, recent: 8, passkeys: 1, words: 1, rate: 0.1 },
  ...{ evaluation: null, backend: "reference" as const },
  ...changes,
});

describe("trainGates", () => {
  it("leaves gates open where nothing presses on them", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), join(folder, "open"));
    const { gates, loss } = await trainGates(options(model, { pressure: 0, steps: 2 }));
    expect([gates.flat(), loss]).toEqual([[1, 1, 1, 1], 0]);
  });

  it("shuts gates that are pressed on, and keeps them beside a quantised model", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), folder, { type: "Q8_0" });
    const steps: StepEvent[] = [];
    const { gates, path, loss } = await trainGates(
      options(model, { pressure: 1e5, onEvent: (event) => event.kind === "step" && steps.push(event) }),
    );
    expect(path).toBe(`${model}.heads.json`);
    expect(gates.map((heads) => heads.length)).toEqual([2, 2]);
    // Pressed harder than any answer is worth, all go down by the rates.
    for (const gate of gates.flat()) expect(gate).toBeCloseTo(1 - 0.765, 1);
    // Open gates lose the pressure alone.
    expect(steps[0]!.loss).toBeCloseTo(1e5, 6);
    // Up over the first fifth of the steps, down over the last.
    expect(steps.map(({ rate }) => Number(rate.toFixed(4)))).toEqual([
      ...[0.0333, 0.0667, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.055, 0.01],
    ]);
    expect(loss).toBe(Math.fround(steps.at(-1)!.loss));
    await using checkpoint = await openCheckpoint(model);
    const { tape } = await buildTape(checkpoint);
    expect(await readHeads(checkpoint, tape)).toEqual({ scores: null, gates });
    expect(JSON.parse(await readFile(path, "utf8"))).toMatchObject({ format: "millrace-heads-2", gates });
  });

  it("goes on from a checkpoint to the same gates", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), join(folder, "resume"));
    const whole = await trainGates(options(model, { steps: 6 }));
    const checkpoint = { folder: join(folder, "resume.training"), every: 2 };
    const stop = new AbortController();
    const interrupted = trainGates(
      options(model, {
        ...{ steps: 6, checkpoint, signal: stop.signal },
        onEvent: (event) => event.kind === "step" && event.step === 3 && stop.abort(),
      }),
    );
    await expect(interrupted).rejects.toMatchObject({ code: "ABORTED" });
    const resume = { ...checkpoint, resume: true };
    await expect(trainGates(options(model, { steps: 6, checkpoint }))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    await expect(
      trainGates(options(model, { steps: 6, recent: 9, checkpoint: resume })),
    ).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect((await trainGates(options(model, { steps: 6, checkpoint: resume }))).gates).toEqual(whole.gates);
  });

  it("refuses what cannot be", async () => {
    const model = await writeTinyGguf(tinyModel("llama"), join(folder, "refused"));
    for (const changes of [
      { pressure: -1 },
      { recent: 0 },
      { passkeys: 21 },
      { words: 0 },
      { length: 8 },
      { optimiser: "muon" },
      { model: "" },
    ]) {
      await expect(trainGates(options(model, changes)), JSON.stringify(changes)).rejects.toMatchObject({
        code: "INVALID_ARGUMENT",
      });
    }
  });
});
