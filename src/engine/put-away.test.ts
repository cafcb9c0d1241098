import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { createNull, nullLogit } from "../backends/null.js";
import { planLayout } from "../cache/layout.js";
import { full } from "../cache/policies/full.js";
import { KvPool } from "../cache/pool.js";
import { Rotations } from "../cache/rotations.js";
import { SequenceCache } from "../cache/sequence.js";
import { assemble } from "./load.js";
import { PutAway } from "./put-away.js";
import type { RequestEnd } from "./request.js";

const folder = mkdtempSync(join(tmpdir(), "millrace-put-away-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("PutAway", () => {
  const layout = planLayout({
    kv: [0, 1].map((layer) => ({ layer, numKvHeads: 2, headWidth: 16, window: null, rope: null }) as never),
    policy: full(),
    codec: "f16",
    step: 64,
    pageTokens: 16,
  });
  const backend = createNull();
  const makePool = () =>
    new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: 64 * layout.pageBytes });

  const filled = (pool: KvPool, tokens: number): SequenceCache => {
    const cache = new SequenceCache(pool, layout);
    cache.prepare(
      Int32Array.from({ length: tokens }, (_, i) => i),
      new Rotations(),
    );
    const random = new TestRandom(tokens);
    const bytes = pool.arena.bytes();
    for (let i = 0; i < bytes.length; i++) bytes[i] = random.below(256);
    return cache;
  };

  it("brings a cache back to the last bit, on other pages, and leaves no file", () => {
    const pool = makePool();
    const cache = filled(pool, 50);
    const before = cache.serialize();
    const away = new PutAway(cache, folder);
    expect(away.held).toBe(50);
    cache.dispose();
    expect(pool.numFree).toBe(pool.numPages);
    pool.arena.bytes().fill(0);
    pool.take(new Int32Array(3));
    const back = away.bringBack(pool, layout);
    const after = back.serialize();
    expect(after.header).toBe(before.header);
    expect(Buffer.compare(after.bytes, before.bytes)).toBe(0);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("says where it cannot write, and what it needs", () => {
    const cache = filled(makePool(), 20);
    expect(() => new PutAway(cache, join(folder, "nowhere"))).toThrow(
      expect.objectContaining({ code: "WRITE_FAILED" }),
    );
    const away = new PutAway(cache, folder);
    const small = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: layout.pageBytes });
    expect(() => away.bringBack(small, layout)).toThrow(expect.objectContaining({ code: "OUT_OF_BUDGET" }));
    away.discard();
    away.discard();
  });
});

describe("Engine with more urgent requests", () => {
  const VOCABULARY = 320;
  const expected = (prompt: number[], count: number) => {
    const tokens = [...prompt];
    for (let n = 0; n < count; n++) {
      const at = tokens.length - 1;
      const scores = Array.from({ length: VOCABULARY }, (_, v) => nullLogit(tokens[at]!, at, v));
      tokens.push(scores.indexOf(Math.max(...scores)));
    }
    return tokens.slice(prompt.length);
  };

  it.each([false, true])(
    "puts a lower one away in the middle of its answer, and brings it back to where it stood (prefixes shared: %s)",
    async (prefixCache) => {
      const model = await assemble(
        tinyCheckpoint(tinyModel("llama"), "gguf"),
        { backend: createNull(), reason: null },
        { sequences: 1, prefixCache, cache: { policy: { policy: "full" }, codec: "f16" } },
      );
      const ends: { id: number; end: RequestEnd }[] = [];
      const said = new Map<number, number[]>();
      const submit = (id: number, prompt: number[], count: number, priority: number) => {
        const tokens: number[] = [];
        said.set(id, tokens);
        model.engine.submit({
          id,
          prompt: Int32Array.from(prompt),
          decoder: {
            outputs: "last",
            accept(logits) {
              tokens.push(logits.indexOf(Math.max(...logits)));
              const finish = tokens.length === count ? "length" : null;
              return { next: finish ? null : tokens.at(-1)!, emission: null, finish };
            },
            flush: () => null,
          },
          maxCached: prompt.length + count,
          credit: 1,
          priority,
          listener: {
            emit: () => {},
            end: (end) => ends.push({ id, end }),
            fail: (error) => {
              throw error;
            },
          },
        });
      };
      submit(1, [5, 6, 7], 30, 0);
      for (let step = 0; step < 8; step++) await model.engine.step();
      submit(2, [9, 8], 12, 3);
      await model.engine.step();
      expect(model.engine.usage()).toMatchObject({ running: 1, waiting: 1 });
      expect(said.get(2)).toHaveLength(1);
      while (await model.engine.step());
      expect(ends.map(({ id }) => id)).toEqual([2, 1]);
      expect(said.get(1)).toEqual(expected([5, 6, 7], 30));
      expect(said.get(2)).toEqual(expected([9, 8], 12));
      // Each token was run once: nothing was computed again.
      expect(ends[1]!.end).toMatchObject({
        promptTokens: 3,
        generatedTokens: 30,
        cache: { seen: 32, dropped: 0 },
      });
      expect(model.engine.usage()).toMatchObject({ used: 0, running: 0, waiting: 0 });

      submit(3, [5, 6, 7], 30, 0);
      await model.engine.step();
      submit(4, [9, 8], 3, 3);
      await model.engine.step();
      model.engine.cancel(3);
      expect(ends.at(-1)).toMatchObject({
        id: 3,
        end: { finishReason: "aborted", generatedTokens: 1, cache: { seen: 3 } },
      });
      while (await model.engine.step());
      expect(model.engine.usage()).toMatchObject({ used: 0, running: 0, waiting: 0 });
      await model.dispose();
    },
  );

  it("ends a request at once whose reader left while others' step was under way", async () => {
    const model = await assemble(
      tinyCheckpoint(tinyModel("llama"), "gguf"),
      { backend: createNull(), reason: null },
      { sequences: 2, cache: { policy: { policy: "full" }, codec: "f16" } },
    );
    const ended: number[] = [];
    const submit = (id: number, credit: number) =>
      model.engine.submit({
        id,
        prompt: Int32Array.of(1, 2),
        decoder: {
          outputs: "last",
          accept: () => ({ next: 3, emission: { text: "", tokens: [3] }, finish: null }),
          flush: () => null,
        },
        maxCached: 40,
        credit,
        listener: { emit: () => {}, end: () => ended.push(id), fail: () => {} },
      });
    submit(1, 1);
    submit(2, Infinity);
    await model.engine.step();
    const step = model.engine.step();
    model.engine.cancel(1);
    await step;
    expect(ended).toEqual([1]);
    expect(model.engine.usage()).toMatchObject({ running: 1 });
    await model.dispose();
  });
});
