import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull } from "../backends/null.js";
import { createReference } from "../backends/reference/index.js";
import { assemble } from "./load.js";
import type { LoadedModel } from "./loaded.js";
import type { EngineRequest, RequestEnd } from "./request.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "millrace-prefix-disk-"));
});
afterEach(() => rm(folder, { recursive: true }));

/** Tokens of a block of the tiny model. */
const BLOCK = 64;

/** Room for one request of 200 tokens in memory; nothing is kept there between runs. */
const load = ({ diskBytes = 2 ** 26, backend = createReference(), sequences = 1 } = {}) =>
  assemble(
    tinyCheckpoint(tinyModel("llama"), "gguf"),
    { backend, reason: null },
    {
      sequences,
      context: 200,
      cache: { policy: { policy: "full" }, codec: "f16" },
      prefixCache: { folder, bytes: 1, diskBytes },
    },
  );

const text = (length: number, seed: number) => {
  const random = new TestRandom(seed);
  return Array.from({ length }, () => random.below(320));
};

interface Asked {
  end: RequestEnd | null;
  logits: Float32Array;
}

function submit(
  model: LoadedModel,
  id: number,
  prompt: readonly number[],
  more: Partial<EngineRequest> = {},
): Asked {
  const asked: Asked = { end: null, logits: new Float32Array() };
  model.engine.submit({
    id,
    prompt: Int32Array.from(prompt),
    decoder: {
      outputs: "last",
      accept(logits) {
        asked.logits = logits.slice();
        return { next: null, emission: null, finish: "length" };
      },
      flush: () => null,
    },
    maxCached: prompt.length,
    credit: 1,
    listener: {
      emit: () => {},
      end: (end) => {
        asked.end = end;
      },
      fail: (error) => {
        throw error;
      },
    },
    ...more,
  });
  return asked;
}

/** Tokens that need not be run, and the logits after the prompt. */
async function ask(
  model: LoadedModel,
  prompt: readonly number[],
  more: Partial<EngineRequest> = {},
): Promise<[number, Float32Array]> {
  const asked = submit(model, 1, prompt, more);
  while (await model.engine.step());
  return [asked.end!.cachedTokens, asked.logits];
}

/** Runs so much else that nothing of before is left in memory. */
const crowdOut = (model: LoadedModel) => ask(model, text(200, 99));

const home = async () => join(folder, (await readdir(folder)).find((name) => name.endsWith(".blocks"))!);

async function blockFiles(): Promise<{ path: string; size: number }[]> {
  const path = await home();
  const names = (await readdir(path)).filter((name) => name.endsWith(".blocks"));
  return Promise.all(
    names.map(async (name) => ({ path: join(path, name), size: (await stat(join(path, name))).size })),
  );
}

describe("prefixes that memory has no room for", () => {
  it("come back from disk, and say what they said", async () => {
    const model = await load();
    const [, want] = await ask(model, text(150, 1));
    await crowdOut(model);
    expect(await ask(model, text(150, 1))).toEqual([2 * BLOCK, want]);
    expect(model.engine.usage()).toMatchObject({
      used: 0,
      prefix: { hits: 1, hitTokens: 2 * BLOCK, broughtTokens: 2 * BLOCK, referenced: 0 },
    });
    await model.dispose();
  });

  it("come back after a restart", async () => {
    const first = await load();
    const [, want] = await ask(first, text(150, 1));
    await ask(first, [...text(64, 1), ...text(130, 2)], { prefixScope: "mine" });
    await crowdOut(first);
    await first.dispose();
    const again = await load();
    expect(again.engine.usage().prefix).toMatchObject({ tokens: 0 });
    expect(again.engine.usage().prefix!.diskBytes).toBeGreaterThan(0);
    expect(await ask(again, text(150, 1))).toEqual([2 * BLOCK, want]);
    // A scope is kept, and so is where prompts part.
    expect((await ask(again, [...text(64, 1), ...text(60, 3)], { prefixScope: "mine" }))[0]).toBe(64);
    expect((await ask(again, [...text(64, 1), ...text(90, 2)]))[0]).toBe(64);
    await again.dispose();
  });

  it("never take more than their budget; the oldest go first", async () => {
    const probe = await load();
    const record = probe.engine.usage().pageBytes * 4;
    await probe.dispose();
    const diskBytes = 8 * record + 16384;
    const model = await load({ diskBytes });
    for (let seed = 1; seed <= 10; seed++) {
      await ask(model, text(100, seed));
      const total = (await blockFiles()).reduce((sum, { size }) => sum + size, 0);
      expect(total).toBeLessThanOrEqual(diskBytes);
      expect(model.engine.usage().prefix!.diskBytes).toBeLessThanOrEqual(diskBytes);
    }
    await crowdOut(model);
    expect((await ask(model, text(150, 1)))[0]).toBe(0);
    await model.dispose();
    await expect(load({ diskBytes: 100 })).rejects.toMatchObject({ code: "OUT_OF_BUDGET" });
  });

  it("are run again where a byte is wrong", async () => {
    const first = await load();
    const [, want] = await ask(first, text(150, 1));
    await crowdOut(first);
    await first.dispose();
    for (const { path } of await blockFiles()) {
      const bytes = await readFile(path);
      for (let at = 4096 + 500; at < bytes.length; at += 1000) bytes[at]! ^= 1;
      await writeFile(path, bytes);
    }
    const again = await load();
    expect(await ask(again, text(150, 1))).toEqual([0, want]);
    await again.dispose();
  });

  it("let others go on, and those that begin alike wait for one reading", async () => {
    const model = await load({ sequences: 3 });
    const [, want] = await ask(model, text(150, 1));
    for (const seed of [97, 98, 99]) await ask(model, text(200, seed));
    const other = submit(model, 2, text(20, 5));
    const both = [3, 4].map((id) => submit(model, id, text(150, 1)));
    await model.engine.step();
    expect([other.end === null, both.map(({ end }) => end)]).toEqual([false, [null, null]]);
    while (await model.engine.step());
    expect(both.map(({ end, logits }) => [end!.cachedTokens >= 2 * BLOCK, logits])).toEqual([
      [true, want],
      [true, want],
    ]);
    expect(model.engine.usage().prefix!.broughtTokens).toBe(2 * BLOCK);
    await model.dispose();
  });

  it("belong to one model at a time", async () => {
    const first = await load();
    await expect(load()).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await first.dispose();
    await (await load()).dispose();
  });

  it("never cost a request its pages, whatever comes, goes and breaks off", async () => {
    const random = new TestRandom(7);
    const model = await load({ backend: createNull(), sequences: 3 });
    const all: Asked[] = [];
    for (let id = 0; id < 150; id++) {
      const prompt = [...text(random.below(6) * 30, random.below(5)), ...text(1 + random.below(20), id + 50)];
      all.push(submit(model, id, prompt));
      for (let steps = random.below(3); steps > 0; steps--) await model.engine.step();
      if (random.below(4) === 0) model.engine.cancel(random.below(id + 1));
      const { used, free, pages } = model.engine.usage();
      expect(used + free).toBe(pages);
    }
    while (await model.engine.step());
    for (const { end } of all) expect(["length", "aborted"]).toContain(end!.finishReason);
    expect(model.engine.usage()).toMatchObject({ used: 0, running: 0, waiting: 0 });
    expect(model.engine.usage().prefix!.broughtTokens).toBeGreaterThan(500);
    await model.dispose();
  });
});
