import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { localThread } from "../../test/support/local-thread.js";
import { findCompiler } from "../backends/native/build.js";
import { loadModel } from "../engine/load.js";
import type { Model } from "../engine/model.js";
import { openOn, openParameters } from "../engine/open.js";
import { openCheckpoint } from "../formats/open.js";
import { exportGguf } from "./export.js";
import type { DecoderShape } from "./initialise.js";
import { parseLengths, stepsOf } from "./lengths.js";
import { OPTIMISER_NAMES } from "./optimisers/resolve.js";
import { type FreshModel, type TrainOptions, type TrainStart, train } from "./train.js";
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

const fresh = (shape: Partial<DecoderShape>, vocabularySize = 270): FreshModel => ({
  shape: { width: 16, layers: 2, heads: 2, kvHeads: 1, feedForward: 32, ...shape },
  tokenizer: { vocabularySize },
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
    ["a folder at the place of the model", { out: import.meta.dirname }, "a folder is there"],
    ["a vocabulary without room for bytes", { model: fresh({}, 1) }, "a whole number from 258"],
    [
      "a width that heads do not share",
      { model: fresh({ width: 10, heads: 3 }) },
      "a multiple of its 3 heads",
    ],
    ["an odd head", { model: fresh({ width: 18, heads: 2 }) }, "an even number"],
    ["less context than windows have tokens", { model: fresh({ context: 1 }) }, "at least the 16 tokens"],
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

  it("says which file it cannot train on, and what is wrong with it", async () => {
    const files: [name: string, bytes: string | Uint8Array, code: string, said: string][] = [
      ["empty.txt", "", "BAD_FORMAT", "is empty"],
      ["latin1.txt", Buffer.from("caf\u00e9 au lait", "latin1"), "BAD_FORMAT", "what stands at byte 3"],
      ["cut.txt", Buffer.from("caf\u00e9").subarray(0, 4), "BAD_FORMAT", "what stands at byte 3"],
      ["binary.dat", Uint8Array.from({ length: 999 }, (_, i) => i), "BAD_FORMAT", "what stands at byte 128"],
      ["mark.txt", "\ufeff", "INVALID_ARGUMENT", "no word"],
      ["short.txt", "A boat.", "INVALID_ARGUMENT", "tokens of text"],
    ];
    const refuse = (path: string, code: string, said: string) =>
      expect(
        train(options({ data: textFiles([path], { seed: 0, heldOut: 0 }), checkpoint: null })),
      ).rejects.toMatchObject({ code, message: expect.stringContaining(said) });
    for (const [name, bytes, code, said] of files) {
      await writeFile(join(folder, name), bytes);
      await refuse(join(folder, name), code, said);
    }
    await refuse(folder, "FILE_NOT_FOUND", "it is a folder");
  });

  it("keeps a run's checkpoints from another run, and from another text", async () => {
    const checkpoint = { folder: join(folder, "claimed"), every: 1, resume: true };
    const path = join(folder, "claimed.txt");
    await writeFile(path, "The boat is red. ".repeat(60));
    const own = { data: textFiles([path], { seed: 1, heldOut: 0 }), checkpoint, out: join(folder, "c.gguf") };
    let second: Promise<unknown> | null = null;
    const stop = new AbortController();
    const first = train(
      options({
        ...own,
        signal: stop.signal,
        onEvent(event) {
          if (event.kind !== "step") return;
          second ??= train(options(own)).catch((error: unknown) => error);
          if (event.step === 2) stop.abort();
        },
      }),
    );
    await expect(first).rejects.toMatchObject({ code: "ABORTED" });
    expect(await second).toMatchObject({ code: "IN_USE", message: expect.stringContaining("claimed") });
    // As many words as before.
    await writeFile(path, "The boat is wet. ".repeat(60));
    await expect(train(options(own))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringMatching(/belongs to another run \(text: /),
    });
    await writeFile(path, "The boat is red. ".repeat(60));
    expect((await train(options(own))).steps).toBe(8);
  });

  it("tells a model that is broken from a rate that is too high", async () => {
    const good = (await train(options({ steps: 1, checkpoint: null, out: join(folder, "good.gguf") }))).out;
    const broken = join(folder, "broken.gguf");
    await using model = await openCheckpoint(good);
    const nan = async () => new Float32Array(16 * 32).fill(Number.NaN);
    await exportGguf(broken, model, new Map([["blk.1.ffn_down.weight", nan]]));
    const checkpoint = { folder: join(folder, "diverging"), every: 1 };
    const out = join(folder, "never.gguf");
    await expect(train(options({ model: { init: broken }, checkpoint, out }))).rejects.toMatchObject({
      code: "TRAINING_DIVERGED",
      message: expect.stringMatching(/Step 1: the loss is NaN. No weight had been changed: the model/),
    });
    await expect(
      train(
        options({ model: { init: good }, checkpoint, out, rate: 1e38, warmup: 0, clip: null, steps: 20 }),
      ),
    ).rejects.toMatchObject({ code: "TRAINING_DIVERGED", message: expect.stringContaining("a lower rate") });
    await expect(readFile(out)).rejects.toThrow("ENOENT");
  });

  it("says which file it cannot read or write", async () => {
    const none = textFiles([join(folder, "none.txt")], { seed: 0, heldOut: 0 });
    await expect(train(options({ data: none }))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
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
