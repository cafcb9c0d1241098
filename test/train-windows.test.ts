/** Windows that a thread makes, in the build as it is shipped. */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../src/formats/open.js";
import { resolveTokenizer } from "../src/tokenizer/resolve.js";
import type { WindowSource } from "../src/train/data.js";
import { passkeys } from "../src/train/gates/passkeys.js";
import type { DataRecipe, TrainingData } from "../src/train/training-data.js";
import type { startWindowThread as Start } from "../src/train/window-thread.js";
import { worldData } from "../src/train/world-data.js";

const BUILD = new URL("../dist/train/", import.meta.url);
const built = existsSync(new URL("window-thread.js", BUILD));

describe.skipIf(!built)("a thread that makes windows (needs npm run build)", () => {
  const setUp = async (recipe: DataRecipe) => {
    const { startWindowThread } = (await import(new URL("window-thread.js", BUILD).href)) as {
      startWindowThread: typeof Start;
    };
    await using model = await openCheckpoint("models/harbour-small.gguf");
    const tokenizer = resolveTokenizer(model.tokenizer)!;
    return { tokenizer, thread: startWindowThread({ recipe, tokenizer: model.tokenizer }) };
  };
  const inBuild = (file: string, { recipe }: Pick<TrainingData, "recipe">): DataRecipe => ({
    ...recipe!,
    module: new URL(file, BUILD).href,
  });
  /** Stands where windows must not be made. */
  const nobody = (length: number): WindowSource => ({
    windowLength: length,
    numWindows: Number.POSITIVE_INFINITY,
    window: () => {
      throw new Error("made in this thread");
    },
  });

  it.each([
    ["the world's log", "world-data.js", worldData({ seed: 3, answerWeight: 2 })],
    ["passkeys", "gates/passkeys.js", passkeys({ passkeys: 2, words: 4, seed: 3 })],
  ] as const)("makes those of %s that this one would, in any order", async (_, file, data) => {
    const { tokenizer, thread } = await setUp(inBuild(file, data));
    await using _end = thread;
    for (const length of [96, 256]) {
      const own = await data.windows(tokenizer, length);
      for (const split of ["train", "heldOut"] as const) {
        const source = thread.source({ length, split }, nobody(length));
        const indices = [0, 5, 1, 0, 4000];
        const made = await Promise.all(indices.map((index) => source.window(index)));
        for (const [i, index] of indices.entries()) {
          expect(made[i]).toEqual(await own[split]!.window(index));
        }
      }
    }
  });

  it("leaves what it cannot make to who asked", async () => {
    const data = worldData({ seed: 3 });
    const { tokenizer, thread } = await setUp({ ...inBuild("world-data.js", data), make: "nothing" });
    await using _end = thread;
    const { train } = await data.windows(tokenizer, 64);
    const source = thread.source({ length: 64, split: "train" }, train);
    expect(await source.window(2)).toEqual(await train.window(2));
    await thread[Symbol.asyncDispose]();
    expect(await source.window(3)).toEqual(await train.window(3));
  });
});
