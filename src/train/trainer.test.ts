import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ToyNetwork, toyWindows } from "../../test/support/toy-network.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { checkpointPath } from "./checkpoints.js";
import { checkOptimiser, OPTIMISER_NAMES } from "./optimisers/resolve.js";
import { runTrainer, type TrainEvent, type TrainerOptions } from "./trainer.js";

const RATES = { adamw: 0.02, muon: 0.02, apollo: 0.05, "apollo-mini": 0.02, mezo: 0.003 } as const;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-train-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function options(changes: Partial<TrainerOptions> = {}): TrainerOptions {
  const arithmetic = changes.arithmetic ?? createReferenceTraining({ precision: "f32" });
  return {
    arithmetic,
    network: async (length, sequences) => new ToyNetwork(arithmetic, length, sequences),
    phases: [
      { steps: 6, train: toyWindows(4), heldOut: toyWindows(4, 16) },
      { steps: 4, train: toyWindows(8), heldOut: toyWindows(8, 16) },
    ],
    batchTokens: 32,
    microTokens: 8,
    optimiser: checkOptimiser("adamw"),
    schedule: { rate: 0.02, warmup: 2, decay: "cosine", final: 0.1 },
    clip: 1,
    evaluation: null,
    checkpoint: null,
    fingerprint: { shape: "toy", seed: 1 },
    ...changes,
  };
}

const bits = (weights: ReadonlyMap<string, Float32Array>) =>
  Array.from(weights, ([name, values]) => [name, ...new Uint32Array(values.buffer)]);

const saveTo = (changes: object = {}) => ({ checkpoint: { folder, every: 5, resume: true, ...changes } });

/** Runs until `step` is done, then stops as Ctrl-C does. */
async function stoppedAfter(step: number, changes: Partial<TrainerOptions>): Promise<void> {
  const stop = new AbortController();
  const run = runTrainer({
    ...options(changes),
    signal: stop.signal,
    onEvent: (event) => event.kind === "step" && event.step === step && stop.abort(),
  });
  await expect(run).rejects.toMatchObject({ code: "ABORTED", details: { step } });
}

describe("runTrainer", () => {
  it.each(OPTIMISER_NAMES)("%s goes on from a stop with the very same bits", async (name) => {
    const changes = {
      optimiser: checkOptimiser(name),
      schedule: { ...options().schedule, rate: RATES[name] },
      ...saveTo({ every: 100 }),
    };
    const straight = await runTrainer(options({ ...changes, checkpoint: null }));
    // In the first phase, at its border, and in the second.
    for (const step of [3, 6, 8]) await stoppedAfter(step, changes);
    const resumed = await runTrainer(options(changes));
    expect(bits(resumed.weights)).toEqual(bits(straight.weights));
    expect(resumed.curve).toEqual(straight.curve);
    expect(resumed.tokens).toBe(320);
    // A run that is done is done.
    const again = await runTrainer(options(changes));
    expect(bits(again.weights)).toEqual(bits(straight.weights));
    expect(again.curve).toEqual(straight.curve);
  });

  it.each(["adamw", "muon", "apollo", "apollo-mini"] as const)("%s masters the task", async (name) => {
    const { loss, heldOutLoss } = await runTrainer(
      options({
        phases: [{ steps: 150, train: toyWindows(4), heldOut: toyWindows(4, 16) }],
        optimiser: checkOptimiser({ name, decay: 0 }),
        schedule: { rate: RATES[name], warmup: 5, decay: "linear", final: 0 },
        evaluation: { every: 1000, windows: 16 },
      }),
    );
    expect(loss).toBeLessThan(0.3);
    expect(heldOutLoss).toBeLessThan(0.3);
  });

  it("mezo goes down without gradients", async () => {
    const { curve, stateBytes } = await runTrainer(
      options({
        phases: [{ steps: 300, train: toyWindows(4), heldOut: null }],
        optimiser: checkOptimiser("mezo"),
        schedule: { rate: RATES.mezo, warmup: 0, decay: "linear", final: 0 },
      }),
    );
    const mean = (losses: number[]) => losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    expect(mean(curve.train.slice(-20))).toBeLessThan(mean(curve.train.slice(0, 20)) - 0.3);
    expect(stateBytes).toBe(0);
  });

  it("takes the same steps whatever goes through the network at once", async () => {
    const [one, all] = [
      await runTrainer(options({ microTokens: 1 })),
      await runTrainer(options({ microTokens: 32 })),
    ];
    for (const [name, values] of one.weights) {
      for (const [i, value] of values.entries()) expect(value).toBeCloseTo(all.weights.get(name)![i]!, 4);
    }
  });

  it("tells what it does: steps with their rate, held-out losses, saves", async () => {
    const events: TrainEvent[] = [];
    await runTrainer(
      options({
        ...saveTo(),
        evaluation: { every: 4, windows: 4 },
        onEvent: (event) => events.push(event),
      }),
    );
    const of = (kind: TrainEvent["kind"]) => events.filter((event) => event.kind === kind);
    expect(of("step").map((event) => event.step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(of("evaluated").map((event) => event.step)).toEqual([4, 8, 10]);
    expect(of("saved").map((event) => event.step)).toEqual([5, 10]);
    expect(of("step").at(-1)).toMatchObject({ steps: 10, windowLength: 8, tokens: 320, secondsLeft: 0 });
  });

  it("shortens long gradients and reports their length as it was", async () => {
    const norms = async (clip: number | null) => {
      const found: number[] = [];
      const result = await runTrainer(
        options({
          clip,
          phases: [{ steps: 1, train: toyWindows(4), heldOut: null }],
          // Adam's first step forgets the gradient's length, but for an epsilon as large as this.
          optimiser: checkOptimiser({ name: "adamw", epsilon: 1e6, decay: 0 }),
          schedule: { rate: 1e6, warmup: 0, decay: "linear", final: 1 },
          onEvent: (event) => event.kind === "step" && found.push(event.gradientNorm),
        }),
      );
      return { norm: found[0]!, weights: result.weights };
    };
    const first = new ToyNetwork(createReferenceTraining({ precision: "f32" }), 4, 2);
    const initial = new Map<string, ArrayLike<number>>();
    for (const { name, weight } of first.parameters) initial.set(name, await weight.values.read());
    const length = (weights: ReadonlyMap<string, Float32Array>) => {
      let square = 0;
      for (const [name, values] of weights) {
        for (const [i, value] of values.entries()) square += (value - initial.get(name)![i]!) ** 2;
      }
      return Math.sqrt(square);
    };
    const free = await norms(null);
    const clipped = await norms(0.01);
    expect(clipped.norm).toBe(free.norm);
    expect(length(free.weights)).toBeCloseTo(free.norm, 3);
    expect(length(clipped.weights)).toBeCloseTo(0.01, 4);
  });

  it("stops where the loss diverges, and keeps the last checkpoint", async () => {
    const arithmetic = createReferenceTraining({ precision: "f32" });
    const good = toyWindows(4);
    let poison: ToyNetwork | undefined;
    const run = runTrainer(
      options({
        arithmetic,
        network: async (length, sequences) => {
          poison = new ToyNetwork(arithmetic, length, sequences);
          return poison;
        },
        phases: [{ steps: 10, train: good, heldOut: null }],
        ...saveTo({ every: 3 }),
        onEvent: (event) => {
          if (event.kind === "step" && event.step === 4) {
            arithmetic.fill(poison!.parameters[2]!.weight, Number.NaN);
          }
        },
      }),
    );
    await expect(run).rejects.toMatchObject({ code: "TRAINING_DIVERGED", details: { step: 5, saved: 3 } });
    expect(await readdir(folder)).toEqual(["checkpoint.safetensors"]);
    const resumed: number[] = [];
    await runTrainer(
      options({
        phases: [{ steps: 10, train: good, heldOut: null }],
        ...saveTo(),
        onEvent: (event) => event.kind === "resumed" && resumed.push(event.step),
      }),
    );
    expect(resumed).toEqual([3]);
  });

  it("never saves weights that are not finite", async () => {
    const run = runTrainer(
      options({ schedule: { ...options().schedule, rate: 1e38, warmup: 0 }, ...saveTo({ every: 1 }) }),
    );
    await expect(run).rejects.toMatchObject({ code: "TRAINING_DIVERGED" });
    expect((await readdir(folder)).every((name) => name === "checkpoint.safetensors")).toBe(true);
  });

  it("refuses a checkpoint of another run, naming what differs, and one that is damaged", async () => {
    await runTrainer(options(saveTo()));
    await expect(
      runTrainer(options({ ...saveTo(), fingerprint: { shape: "larger", seed: 1 } })),
    ).rejects.toMatchObject({
      code: "BAD_SHAPE",
      message: expect.stringContaining('"toy" there, "larger" now'),
    });
    await expect(runTrainer(options({ ...saveTo(), batchTokens: 64 }))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("batchTokens: 32 there, 64 now"),
    });
    const path = checkpointPath(folder);
    await truncate(path, 1000);
    await expect(runTrainer(options(saveTo()))).rejects.toMatchObject({ code: "BAD_FORMAT" });
  });

  it("refuses a step that windows do not fill", async () => {
    await expect(runTrainer(options({ batchTokens: 30 }))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("windows of 4"),
    });
  });

  it("starts anew without resume, and sweeps up what a dead process left", async () => {
    await runTrainer(options(saveTo()));
    const before = await readFile(checkpointPath(folder));
    const abandoned = join(folder, "checkpoint.safetensors.999999999-01234567.tmp");
    const alive = join(folder, `checkpoint.safetensors.${process.pid}-01234567.tmp`);
    await writeFile(abandoned, "half");
    await writeFile(alive, "half");
    const steps: number[] = [];
    await runTrainer(
      options({
        ...saveTo({ resume: false }),
        onEvent: (event) => event.kind === "step" && steps.push(event.step),
      }),
    );
    expect(steps[0]).toBe(1);
    expect(await readFile(checkpointPath(folder))).toEqual(before);
    expect((await readdir(folder)).sort()).toEqual([
      "checkpoint.safetensors",
      `checkpoint.safetensors.${process.pid}-01234567.tmp`,
    ]);
  });
});
