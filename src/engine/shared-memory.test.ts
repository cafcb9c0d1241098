import { describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull } from "../backends/null.js";
import type { Model } from "../session/model.js";
import type { Loader } from "./host.js";
import { assemble } from "./load.js";
import { SharedMemory } from "./shared-memory.js";

/** A tiny model on a backend that can, or cannot, give memory back to the system. */
const loader =
  (canDiscard: boolean): Loader =>
  (parameters, onProgress, sessions, wire) => {
    const inner = createNull();
    const allocate: typeof inner.allocate = (byteLength) => {
      const region = inner.allocate(byteLength);
      const pages = (at: number, length: number) => region.bytes(at, length).fill(0);
      return canDiscard ? Object.assign(region, { discard: { unit: 64, pages } }) : region;
    };
    return assemble(
      tinyCheckpoint(tinyModel("llama"), "gguf"),
      { backend: { ...inner, allocate }, reason: null },
      parameters,
      onProgress,
      sessions,
      wire,
    );
  };

const shape = { context: 200, sequences: 4, prefixCache: true } as const;
const answer = (model: Model, first: number) =>
  model.generate([first, 2, 3], { maxTokens: 190, ignoreEos: true }).result;
const answers = (model: Model, count: number) =>
  Promise.all(Array.from({ length: count }, (_, i) => answer(model, i + 1)));

/** Two models in a memory in which each has room for two of its four requests. */
async function openTwo(canDiscard = true) {
  const alone = await openNull(shape, loader(canDiscard));
  const { cacheBytes, scratchBytes } = alone.info.memory;
  const { pages: all } = await alone.usage();
  await alone.close();
  const memory = new SharedMemory(2 * (scratchBytes + cacheBytes / 2), 2);
  const open = () => openNull({ ...shape, memory }, loader(canDiscard));
  const [a, b] = [await open(), await open()];
  /** Pages of both: never more than there are. */
  const held = async () => {
    const [one, other] = [(await a.usage()).pages, (await b.usage()).pages];
    expect(one + other).toBeLessThanOrEqual(all);
    return [one, other] as const;
  };
  return { a, b, all, held, open, memory };
}

describe("models that share a memory", () => {
  it("let one take more than half, and give it back when the other needs it", async () => {
    const { a, b, all, held } = await openTwo();
    expect(await held()).toEqual([all / 2, all / 2]);
    const whole = await answers(a, 4);
    expect(whole.map(({ usage }) => usage.generatedTokens)).toEqual([190, 190, 190, 190]);
    expect((await a.usage()).peak).toBeGreaterThan(all / 2);
    expect(await held()).toEqual([(3 * all) / 4, all / 4]);
    await answers(b, 4);
    expect((await b.usage()).peak).toBeGreaterThan(all / 2);
    expect(await held()).toEqual([all / 4, (3 * all) / 4]);
    await Promise.all([a.close(), b.close()]);
  });

  it("both come to their end when both have much to do", async () => {
    const { a, b, held } = await openTwo();
    const first = answers(a, 8);
    await answers(a, 1);
    const both = await Promise.all([first, answers(b, 8)]);
    for (const each of both.flat()) expect(each.finishReason).toBe("length");
    await held();
    await Promise.all([a.close(), b.close()]);
  });

  it("keep to their parts where memory cannot be given back", async () => {
    const { a, b, all, held } = await openTwo(false);
    await Promise.all([answers(a, 4), answers(b, 4)]);
    expect(await held()).toEqual([all / 2, all / 2]);
    await Promise.all([a.close(), b.close()]);
  });

  it("find their part again after they have gone", async () => {
    const { a, b, all, open, memory } = await openTwo();
    await answers(a, 4);
    await b.close();
    await expect(openNull({ ...shape, memory: new SharedMemory(1000, 2) })).rejects.toMatchObject({
      code: "OUT_OF_BUDGET",
    });
    const again = await open();
    expect((await again.usage()).pages).toBe(all / 4);
    await expect(openNull({ ...shape, memory }, loader(true))).rejects.toMatchObject({
      code: "OUT_OF_BUDGET",
    });
    await answers(again, 2);
    expect((await again.usage()).pages).toBeGreaterThan(all / 4);
    await Promise.all([a.close(), again.close()]);
  });
});
