import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createReference } from "../backends/reference/index.js";
import type { CodecName } from "../cache/codecs/contract.js";
import { assemble } from "./load.js";
import type { LoadedModel } from "./loaded.js";
import type { RequestEnd } from "./request.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-prefixes-"));
});
afterEach(() => rm(folder, { recursive: true }));

const load = ({ bytes = 2 ** 24, codec = "f16" as CodecName, context = 200 } = {}) =>
  assemble(
    tinyCheckpoint(tinyModel("llama"), "gguf"),
    { backend: createReference(), reason: null },
    {
      sequences: 2,
      context,
      cache: { policy: { policy: "full" }, codec },
      prefixCache: { folder: join(folder, "kept"), bytes },
    },
  );

const text = (length: number, seed: number) => {
  const random = new TestRandom(seed);
  return Array.from({ length }, () => random.below(320));
};

/** Tokens taken over, and the logits after the prompt. */
async function ask(
  model: LoadedModel,
  prompt: readonly number[],
  scope?: string,
): Promise<[number, Float32Array]> {
  let end: RequestEnd | null = null;
  let last = new Float32Array();
  model.engine.submit({
    id: 1,
    prompt: Int32Array.from(prompt),
    ...(scope === undefined ? {} : { prefixScope: scope }),
    decoder: {
      outputs: "last",
      accept(logits) {
        last = logits.slice();
        return { next: null, emission: null, finish: "length" };
      },
      flush: () => null,
    },
    maxCached: prompt.length,
    credit: 1,
    listener: {
      emit: () => {},
      end: (its) => {
        end = its;
      },
      fail: (error) => {
        throw error;
      },
    },
  });
  while (await model.engine.step());
  return [(end as RequestEnd | null)!.cachedTokens, last];
}

const files = async () => {
  const names = await readdir(join(folder, "kept"));
  return Promise.all(
    names.map(async (name) => ({ name, size: (await stat(join(folder, "kept", name))).size })),
  );
};

describe("prefixes kept in a folder", () => {
  it("are there again when the model is opened again, and say what they said", async () => {
    const first = await load();
    const [, want] = await ask(first, text(100, 1));
    await ask(first, [...text(64, 1), ...text(20, 2)]);
    await first.dispose();
    const again = await load();
    expect(again.engine.usage()).toMatchObject({ used: 0, prefix: { tokens: 64 + 36 + 20 } });
    expect(await ask(again, text(100, 1))).toEqual([99, want]);
    expect((await ask(again, [...text(64, 1), ...text(20, 2)]))[0]).toBe(83);
    await again.dispose();
    expect(await files()).toHaveLength(1);
  });

  it("stay in their scope", async () => {
    const first = await load();
    await ask(first, text(100, 1), "a");
    await ask(first, text(100, 2));
    await first.dispose();
    const again = await load();
    expect((await ask(again, text(100, 1), "a"))[0]).toBe(99);
    expect((await ask(again, text(100, 2)))[0]).toBe(99);
    expect((await ask(again, text(100, 1)))[0]).toBe(0);
    expect((await ask(again, text(100, 2), "a"))[0]).toBe(0);
    await again.dispose();
  });

  it("are for the same model, codec and context alone", async () => {
    const first = await load();
    await ask(first, text(100, 1));
    await first.dispose();
    for (const other of [{ codec: "f32" as const }, { context: 150 }]) {
      const model = await load(other);
      expect(model.engine.usage().prefix!.tokens).toBe(0);
      await model.dispose();
    }
    expect(await files()).toHaveLength(1);
  });

  it("take no more bytes than allowed: what was used last stays", async () => {
    const first = await load();
    const page = first.engine.usage().pageBytes;
    // Blocks are rows of 4 lanes.
    const bytes = 3 * 4 * page + 4096;
    await first.dispose();
    const model = await load({ bytes });
    await ask(model, text(100, 1));
    await ask(model, text(70, 2));
    await model.dispose();
    const [file] = await files();
    expect(file!.size).toBeLessThanOrEqual(bytes);
    const again = await load({ bytes });
    expect((await ask(again, text(70, 2)))[0]).toBe(69);
    expect((await ask(again, text(100, 1)))[0]).toBe(64);
    await again.dispose();
  });

  it("are passed over where any byte is wrong, and replaced", async () => {
    const first = await load();
    await ask(first, text(100, 1));
    await first.dispose();
    const path = join(folder, "kept", (await files())[0]!.name);
    const good = await readFile(path);
    for (const at of [3, 20, 100, good.length - 1]) {
      const bad = Uint8Array.from(good);
      bad[at]! ^= 1;
      await writeFile(path, bad);
      const model = await load();
      expect((await ask(model, text(100, 1)))[0]).toBe(0);
      await model.dispose();
      const again = await load();
      expect((await ask(again, text(100, 1)))[0]).toBe(99);
      await again.dispose();
    }
  });
});
