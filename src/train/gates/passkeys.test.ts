import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tinyModel, writeTinyGguf } from "../../../test/support/tiny-models.js";
import { writeWorldModel } from "../../../test/support/world-model.js";
import { openCheckpoint } from "../../formats/open.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { resolveTokenizer } from "../../tokenizer/resolve.js";
import type { Window } from "../data.js";
import { textHaystack } from "./haystack.js";
import { type PasskeyOptions, passkeys } from "./passkeys.js";

// The plain one says letters.
const LENGTH = 2048;
let folder = "";
let plain: Tokenizer;
let worldly: Tokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-passkeys-"));
  plain = await tokenizerOf(await writeTinyGguf(tinyModel("llama"), folder));
  const path = join(folder, "world.gguf");
  await writeWorldModel(path);
  worldly = await tokenizerOf(path);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function tokenizerOf(path: string): Promise<Tokenizer> {
  await using checkpoint = await openCheckpoint(path);
  return resolveTokenizer(checkpoint.tokenizer)!;
}

async function windows(tokenizer: Tokenizer, options: PasskeyOptions = {}, length = LENGTH) {
  const { train, heldOut } = await passkeys(options).windows(tokenizer, length);
  return { train, heldOut: heldOut! };
}

/** All that the window says, and the runs of it that count. */
function read(tokenizer: Tokenizer, { tokens, targets }: Window) {
  const say = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecial: false });
  const answers: string[] = [];
  let run: number[] = [];
  for (const target of [...targets, -1]) {
    if (target >= 0) run.push(target);
    else if (run.length > 0) answers.push(say(run.splice(0)));
  }
  run = [];
  return { text: say([...tokens]), answers };
}

const TOLD = /The (\w+) passkey is ((?:\w+ ?)+)\. Remember it\./g;

describe("passkeys", () => {
  it("are told within the text, from near its beginning to near its end, and asked for behind it", async () => {
    for (const tokenizer of [plain, worldly]) {
      const { train } = await windows(tokenizer, { passkeys: 4, words: 6 });
      const window = await train.window(3);
      expect([window.tokens.length, window.targets.length, window.weights]).toEqual([LENGTH, LENGTH, null]);
      const { text, answers } = read(tokenizer, window);
      const told = [...text.matchAll(TOLD)];
      expect(told.map(([, ordinal]) => ordinal)).toEqual(["first", "second", "third", "fourth"]);
      const asked = [...text.matchAll(/What is the (\w+) passkey\?/g)];
      expect(asked.map(([, ordinal]) => ordinal).sort()).toEqual(["first", "fourth", "second", "third"]);
      expect(told.at(-1)!.index).toBeLessThan(asked[0]!.index);
      const depths = told.map(({ index }) => index / asked[0]!.index);
      expect(depths[0]).toBeLessThan(0.15);
      expect(depths[3]).toBeGreaterThan(0.75);
      const keys = told.map(([, , words]) => words!.trim());
      for (const [i, [, ordinal]] of asked.entries()) {
        const key = keys[["first", "second", "third", "fourth"].indexOf(ordinal!)]!;
        const answer = answers.at(i - 4)!;
        expect(answer.trim().startsWith(`${key}.`), `${answer} for ${key}`).toBe(true);
      }
    }
  });

  it("count alone for models that know no questions; in the world those of its log do too", async () => {
    const some = { passkeys: 2, words: 4 };
    expect(read(plain, await (await windows(plain, some)).train.window(0)).answers).toHaveLength(2);
    const { text, answers } = read(worldly, await (await windows(worldly, some, 1024)).train.window(0));
    expect(answers.length).toBeGreaterThan(2);
    for (const answer of answers)
      expect(text.replaceAll(" ", "")).toContain(answer.trim().replaceAll(" ", ""));
  });

  it("are the same for the same seed and index, and others for others", async () => {
    const { train, heldOut } = await windows(plain, { seed: 5 });
    const again = await windows(plain, { seed: 5 });
    expect(await again.train.window(7)).toEqual(await train.window(7));
    const texts = [
      await train.window(7),
      await train.window(8),
      await heldOut.window(7),
      await (await windows(plain, { seed: 6 })).train.window(7),
    ].map(({ tokens }) => String(tokens));
    expect(new Set(texts).size).toBe(4);
  });

  it("become shorter and fewer in short windows, and are refused where none fits", async () => {
    const { train } = await windows(plain, {}, 256);
    const { text, answers } = read(plain, await train.window(0));
    expect(answers.length).toBeGreaterThanOrEqual(1);
    expect(answers.length).toBeLessThan(10);
    expect(text).toContain("first passkey");
    const short = await windows(plain, {}, 16);
    expect(() => short.train.window(0)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });

  it("hide in files of one's own", async () => {
    const path = join(folder, "own.txt");
    await writeFile(path, "the rain and the rain again ".repeat(40));
    const { train } = await windows(plain, { haystack: textHaystack([path]), passkeys: 2, words: 3 });
    const { text } = read(plain, await train.window(0));
    expect(text).toContain("the rain again");
    expect([...text.matchAll(TOLD)]).toHaveLength(2);
    await writeFile(path, "too short");
    await expect(windows(plain, { haystack: textHaystack([path]) })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
  });
});
