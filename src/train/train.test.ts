import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { localThread } from "../../test/support/local-thread.js";
import { findCompiler } from "../backends/native/build.js";
import { loadModel } from "../engine/load.js";
import { type Model, openOn, openParameters } from "../engine/model.js";
import { openCheckpoint } from "../formats/open.js";
import { parseLengths, stepsOf } from "./lengths.js";
import { OPTIMISER_NAMES } from "./optimisers/resolve.js";
import { type TrainOptions, type TrainStart, train } from "./train.js";
import type { TrainEvent } from "./trainer.js";
import { type TrainingData, textFiles } from "./training-data.js";

const hasCompiler = await findCompiler().then(
  () => true,
  () => false,
);

let folder: string;
let data: TrainingData;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-train-"));
  const path = join(folder, "text.txt");
  await writeFile(path, "The boat is red. The boat is at the pier. The pier is wet.\n".repeat(60));
  data = textFiles([path], { seed: 1, heldOut: 0.1 });
});
afterAll(() => rm(folder, { recursive: true }));

const options = (changes: Partial<TrainOptions> = {}): TrainOptions => ({
  model: {
    shape: { width: 16, layers: 2, heads: 2, kvHeads: 1, feedForward: 32 },
    tokenizer: { vocabularySize: 270 },
  },
  data,
  out: join(folder, "model.gguf"),
  steps: 8,
  length: 16,
  batchTokens: 64,
  backend: "reference",
  evaluation: { every: 4, windows: 4 },
  ...changes,
});

describe("train", () => {
  it("makes a model of text that opens, speaks, and can be trained further", async () => {
    const events: (TrainEvent | TrainStart)[] = [];
    const result = await train(
      options({ steps: 30, rate: 0.02, onEvent: (event) => events.push(event), checkpoint: null }),
    );
    expect(events[0]).toMatchObject({
      kind: "start",
      model: "llama: 2 layers, width 16, 2 heads of 8 over 1, feed-forward 32, vocabulary 270",
      parameters: result.parameters,
      steps: 30,
    });
    expect(result.curve.train.at(-1)!).toBeLessThan(result.curve.train[0]! - 1);
    expect(result.heldOutLoss).toBeLessThan(result.curve.train[0]! - 1);
    const parameters = 270 * 16 + 16 + 2 * (16 * 16 * 2 + 8 * 16 * 2 + 3 * 16 * 32 + 2 * 16);
    expect(result.parameters).toBe(parameters);

    const thread = localThread(loadModel);
    await using model = await openOn(thread, openParameters(result.out, { backend: "reference" }), {});
    // What the trainer measured is what the engine computes.
    const tokenIds = await model.tokenize("The boat is red.");
    const { meanLogprob } = await scoreOf(model, tokenIds);
    expect(-meanLogprob).toBeLessThan(result.curve.train[0]! - 1);

    const again = join(folder, "again.gguf");
    const more = await train(options({ model: { init: result.out }, out: again, steps: 2, rate: 1e-9 }));
    expect(more.curve.train[0]!).toBeLessThan(result.curve.train[0]! - 1);
    await using first = await openCheckpoint(result.out);
    await using second = await openCheckpoint(again);
    expect([...second.metadata]).toEqual([...first.metadata]);
  });

  it("takes another model's tokenizer as it is", async () => {
    const from = (await train(options({ steps: 1 }))).out;
    const out = join(folder, "other.gguf");
    const { shape } = options().model as {
      shape: { width: number; layers: number; heads: number; feedForward: number };
    };
    await train(options({ model: { shape: { ...shape, width: 8 }, tokenizer: { from } }, out, steps: 1 }));
    await using first = await openCheckpoint(from);
    await using second = await openCheckpoint(out);
    const keys = (metadata: ReadonlyMap<string, unknown>) =>
      [...metadata].filter(([key]) => key.startsWith("tokenizer."));
    expect(keys(second.metadata)).toEqual(keys(first.metadata));
  });

  it("writes the same file when stopped and resumed, over windows of two lengths", async () => {
    const length = parseLengths("16:0.5,32:0.5");
    const straight = await train(options({ length, out: join(folder, "straight.gguf") }));
    const checkpoint = { folder: join(folder, "run"), every: 3 };
    const out = join(folder, "resumed.gguf");
    const stop = new AbortController();
    await expect(
      train(
        options({
          length,
          out,
          checkpoint,
          signal: stop.signal,
          onEvent: (event) => event.kind === "step" && event.step === 5 && stop.abort(),
        }),
      ),
    ).rejects.toMatchObject({ code: "ABORTED", details: { step: 5 } });
    await expect(train(options({ length, out, checkpoint }))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("is there already"),
    });
    await train(options({ length, out, checkpoint: { ...checkpoint, resume: true } }));
    expect(await readFile(out)).toEqual(await readFile(straight.out));
    const wider = {
      shape: { width: 32, layers: 2, heads: 2, feedForward: 32 },
      tokenizer: { vocabularySize: 270 },
    };
    await expect(
      train(options({ length, out, model: wider, checkpoint: { ...checkpoint, resume: true } })),
    ).rejects.toMatchObject({
      code: "BAD_SHAPE",
      message: expect.stringMatching(/width 16.*there.*width 32.*now/),
    });
  });

  it.skipIf(!hasCompiler).each(OPTIMISER_NAMES)(
    "native, %s (skipped where no C compiler runs): the same file whatever the threads, stopped or not",
    async (optimiser) => {
      const changes = { backend: "native", optimiser, rate: 0.01, steps: 6 } as const;
      const straight = await train(options({ ...changes, threads: 2, out: join(folder, "two.gguf") }));
      const checkpoint = { folder: join(folder, `native-${optimiser}`), every: 2 };
      const stop = new AbortController();
      const onEvent = (event: TrainEvent | TrainStart) =>
        event.kind === "step" && event.step === 3 && stop.abort();
      const first = train(options({ ...changes, threads: 1, checkpoint, onEvent, signal: stop.signal }));
      await expect(first).rejects.toMatchObject({ code: "ABORTED" });
      const out = join(folder, "one.gguf");
      await train(options({ ...changes, threads: 1, out, checkpoint: { ...checkpoint, resume: true } }));
      expect(await readFile(out)).toEqual(await readFile(straight.out));
    },
  );

  const refused: [what: string, changes: object, said: string][] = [
    ["an option that does not exist", { stepz: 3 }, 'Did you mean "steps"'],
    ["no steps", { steps: 0 }, "steps is 0"],
    ["windows that do not fill a step", { batchTokens: 50 }, "windows of 16"],
    ["lengths whose shares are not all", { length: [{ length: 16, share: 0.5 }] }, "shares that make 1"],
    ["a rate below 0", { rate: -1 }, "rate is -1"],
    ["an optimiser that nobody knows", { optimiser: "sgd" }, "one of adamw"],
    ["a text shorter than a window", { length: 8192, batchTokens: 8192 }, "tokens of text"],
    ["a clip of 0", { clip: 0 }, "clip is 0"],
    ["no model", { model: {} }, "{ init } or { shape, tokenizer }"],
    [
      "heads that do not share",
      {
        model: {
          shape: { width: 16, layers: 2, heads: 4, kvHeads: 3, feedForward: 8 },
          tokenizer: { vocabularySize: 270 },
        },
      },
      "expected a multiple",
    ],
  ];
  it.each(refused)("refuses %s", async (_, changes, said) => {
    await expect(train(options(changes))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining(said),
    });
  });

  it("says which file it cannot read or write", async () => {
    const none = textFiles([join(folder, "none.txt")], { seed: 0, heldOut: 0 });
    await expect(train(options({ data: none }))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const empty = join(folder, "empty.txt");
    await writeFile(empty, "");
    await expect(train(options({ data: textFiles([empty], { seed: 0, heldOut: 0 }) }))).rejects.toMatchObject(
      {
        code: "BAD_FORMAT",
      },
    );
    await expect(
      train(options({ steps: 1, out: join(folder, "text.txt", "model.gguf") })),
    ).rejects.toMatchObject({ code: "WRITE_FAILED" });
  });
});

async function scoreOf(model: Model, ids: ArrayLike<number>): Promise<{ meanLogprob: number }> {
  const { logprobs } = await model.score(Array.from(ids));
  const known = Array.from(logprobs).filter((logprob): logprob is number => Number.isFinite(logprob));
  return { meanLogprob: known.reduce((sum, logprob) => sum + logprob, 0) / known.length };
}

describe("window lengths", () => {
  it("are one, or several with shares", () => {
    expect(parseLengths("256")).toEqual([{ length: 256, share: 1 }]);
    expect(parseLengths("256:0.7, 1024:0.3")).toEqual([
      { length: 256, share: 0.7 },
      { length: 1024, share: 0.3 },
    ]);
    for (const text of ["", "many", "256,512", "256:0.5,512:0.6", "1", "256:0,512:1", "256:1:1"]) {
      expect(() => parseLengths(text)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    }
  });

  it("share out all steps", () => {
    expect(stepsOf(parseLengths("2:0.7,4:0.3"), 10)).toEqual([7, 3]);
    expect(stepsOf(parseLengths("2:0.3,4:0.3,8:0.4"), 7)).toEqual([2, 2, 3]);
    expect(stepsOf(parseLengths("2:0.9,4:0.1"), 1)).toEqual([1, 0]);
  });
});
