import { describe, expect, it } from "vitest";
import { difference, TinyHost } from "../../../test/support/cache-runner.js";
import { viewOf } from "../../../test/support/lane-view.js";
import { TestRandom } from "../../../test/support/random.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import { codecs } from "../codecs/index.js";
import type { CachePolicy } from "../contract.js";
import { pagesFor, planLayout, rowsFor } from "../layout.js";
import type { LowerTier } from "../lower-tier.js";
import { KvPool } from "../pool.js";
import { Rotations } from "../rotations.js";
import { type CacheEvent, SequenceCache } from "../sequence.js";
import { thickened } from "../slots.js";
import { full } from "./full.js";
import { h2o } from "./h2o.js";
import { formatPolicy, parsePolicy, resolvePolicy } from "./resolve.js";
import { sinks } from "./sinks.js";
import { think } from "./think.js";
import { window } from "./window.js";

const reference = createReference();
const kv = [{ layer: 0, numKvHeads: 2, headWidth: 64, window: null }];

describe("think", () => {
  it("thins all but the newest tokens, between blocks, by what keys and queries add to the scores", () => {
    const policy = think({ of: full(), keep: 0.5, recent: 4, queries: 1 });
    const view = viewOf([0, 1, 2, 3, 4, 5], {
      keys: Array.from({ length: 6 }, () => [1, 0.1, 3, 2]),
      queries: [4, 400, 0.1, 1],
    });
    // Worth: 1 x 4, 0.01 x 400, 9 x 0.1, 4 x 1. Of equals the first.
    expect(policy.plan(view)).toEqual([{ kind: "thin", slots: [0, 1], elements: Int32Array.of(0, 1) }]);
    const later = viewOf([0, 1, 2, 3, 4, 5, 6, 7], { thin: [0, 1], seen: 8 });
    expect(policy.plan(later)).toEqual([{ kind: "thin", slots: [2, 3], elements: null }]);
    expect(policy.plan(viewOf([0, 1, 2, 3, 4], { seen: 5 }))).toEqual([]);
    expect(policy.plan(viewOf([0, 1, 2, 3], { seen: 4 }))).toEqual([]);
  });

  it("leaves to the inner policy what goes, and thins none of it", () => {
    const policy = think({ of: window({ tokens: 8 }), keep: 1, recent: 4 });
    const view = viewOf([0, 1, 2, 3, 4, 5, 6, 7], { keys: [], queries: [1] });
    expect(policy.plan(view)).toEqual([
      { kind: "drop", slots: [0, 1] },
      { kind: "thin", slots: [2, 3], elements: Int32Array.of(0) },
    ]);
    expect([0, 1, 5, 8].map((seen) => policy.maxIncoming!(seen))).toEqual([2, 1, 1, 2]);
    expect(policy.capacity({ tokens: 100, step: 16 })).toBe(8);
  });

  it("lets the inner policy count its queries to where its own tokens go", () => {
    const inner = h2o({ heavy: 20, recent: 20 });
    const counting: CachePolicy = { ...inner, mass: { queries: 3 } };
    const { mass } = think({ of: counting, recent: 4 });
    for (const seen of [0, 17, 40, 44]) expect(mass!.left!(seen)).toBe(inner.maxIncoming!(seen));
  });

  it("refuses what it cannot do", () => {
    const code = expect.objectContaining({ code: "INVALID_ARGUMENT" });
    for (const keep of [0, -1, 1.1, Number.NaN]) expect(() => think({ of: full(), keep })).toThrow(code);
    for (const recent of [0, 1, 2.5]) expect(() => think({ of: full(), recent })).toThrow(code);
    expect(() => think({ of: full(), recent: 8, queries: 5 })).toThrow(code);
    expect(() => think({ of: think({ of: full() }) })).toThrow(/thins keys itself/);
    const contiguous = h2o({ heavy: 20, recent: 20, positions: "contiguous" });
    expect(() => think({ of: contiguous })).toThrow(/rotates stored keys/);
  });

  it("is written with the policy that it wraps at the end", () => {
    const spec = parsePolicy("think:keep=0.7,recent=64,of=snapkv:tokens=512,window=32");
    expect(spec).toEqual({
      policy: "think",
      keep: 0.7,
      recent: 64,
      of: { policy: "snapkv", tokens: 512, window: 32 },
    });
    for (const text of ["think", "think:keep=0.5", "think:of=sinks:window=64", formatPolicy(spec)])
      expect(formatPolicy(parsePolicy(text))).toBe(text);
    expect(parsePolicy("think:0.5")).toEqual({ policy: "think", keep: 0.5 });
    for (const text of ["think:of=think", "think:of=auto", "think:of=lacache:tokens=64", "h2o:of=full"])
      expect(() => parsePolicy(text)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    expect(resolvePolicy("think")).toMatchObject({ id: "think(keep=0.6, recent=128, queries=32, full)" });
  });
});

describe("thin keys", () => {
  const inner = () => sinks({ window: 24 });
  const of = (policy: CachePolicy, codec: "f32" | "f16" | "int8" = "f32") => ({ policy, codec });
  const runner = async ({ policy, codec }: ReturnType<typeof of>) => {
    const host = await TinyHost.open("llama", reference);
    const layout = planLayout({ kv: host.tape.kv, policy, codec, step: 16, pageTokens: 16 });
    return host.runner(layout, pagesFor(layout, 80));
  };

  it.each(["f32", "f16", "int8"] as const)(
    "with all elements give what the inner policy gives, as %s",
    async (codec) => {
      const tokens = tinyPrompt(80);
      const [own, want] = [
        await runner(of(think({ of: inner(), keep: 1, recent: 8 }), codec)),
        await runner(of(inner(), codec)),
      ];
      const cache = own.open();
      const got = await own.run(cache, tokens);
      expect(difference(got, await want.run(want.open(), tokens))).toBeLessThan(1e-5);
      expect(cache.report().groups[0]!.thinned).toBe(8);
    },
  );

  it("are exact where what went was zero, and no other elements are chosen", () => {
    const random = new TestRandom(5);
    const live = [0, 1].map(() => sorted(random.permutation(64).slice(0, 32)));
    const { cache, pool, stored } = fed(think({ of: full(), keep: 0.5, recent: 8 }), 40, (lane) => {
      const key = new Float32Array(64);
      for (const element of live[lane]!) key[element] = random.floats(1)[0]!;
      return key;
    });
    const { thin, region, pageIdsAt, positionsAt, numPages, pageTokens } = cache.views[0]!;
    const elements = [0, 1].map((lane) => thin!.region.int32(thin!.elementsAt + 4 * 32 * lane, 32));
    expect(elements.map((each) => [...each])).toEqual(live);
    const rows = thin!.region.int32(thin!.rowsAt, numPages);
    let thinned = 0;
    for (const [slot, position] of region.int32(positionsAt, numPages * pageTokens).entries()) {
      const row = Math.floor(slot / pageTokens);
      if (position < 0 || rows[row] !== 1) continue;
      thinned++;
      for (const lane of [0, 1]) {
        const id = region.int32(pageIdsAt, numPages * 2)[row * 2 + lane]!;
        const page = pool.arena.bytes(id * pool.pageBytes, pool.pageBytes);
        const whole = thickened("f32", 64, page, pageTokens, elements[lane]!);
        expect(keyIn(whole, slot % pageTokens)).toEqual(stored[position]![lane]);
      }
    }
    expect(thinned).toBe(28);
    expect(cache.report().groups[0]!.thinned).toBe(28);
  });

  it("go down to the tier below with zeros where nothing is stored", () => {
    const random = new TestRandom(6);
    let demoted = 0;
    const { cache, stored } = fed(
      think({ of: window({ tokens: 32 }), keep: 0.25, recent: 8 }),
      90,
      () => random.floats(64),
      (sequence, keys) => ({
        takes: () => true,
        take(_, table) {
          const { pageTokens } = table.view;
          const { thin } = sequence.views[0]!;
          for (const { slot, position } of table.removals) {
            for (const lane of [0, 1]) {
              const elements = thin!.region.int32(thin!.elementsAt + 4 * 16 * lane, 16);
              const want = new Float32Array(64);
              for (const element of elements) want[element] = keys[position]![lane]![element]!;
              const page = table.pageOf(Math.floor(slot / pageTokens), lane);
              expect(keyIn(page, slot % pageTokens)).toEqual(want);
            }
            demoted++;
          }
        },
        rewound: () => {},
        lent: () => 0,
        place: () => {},
      }),
    );
    expect(stored).toHaveLength(90);
    expect(demoted).toBe(64);
    expect(cache.report().groups[0]).toMatchObject({ demoted, dropped: 0, kept: 26 });
  });

  it("are told of, and make a rewind to before them approximate", async () => {
    const own = await runner(of(think({ of: full(), keep: 0.5, recent: 8 })));
    const cache = own.open();
    const events: CacheEvent[] = [];
    cache.onChange((event) => events.push(event));
    await own.run(cache, tinyPrompt(25));
    expect(events).toEqual(
      [12, 16, 20, 24].map((seen) => {
        const first = seen - 12;
        return { kind: "thin", group: 0, count: 4, ranges: [[first, first + 3]] };
      }),
    );
    expect(cache.report().groups[0]).toMatchObject({ kept: 25, thinned: 16, dropped: 0 });
    expect([24, 23, 3].map((to) => cache.rewindable(to))).toEqual(["exact", "approximate", "approximate"]);
    cache.rewind(3);
    expect(cache.report().groups[0]).toMatchObject({ kept: 3, thinned: 3 });
    cache.rewind(0);
    await own.run(cache, tinyPrompt(40));
    expect(cache.report().groups[0]).toMatchObject({ kept: 40, thinned: 28 });
  });
});

const sorted = (numbers: number[]) => numbers.sort((a, b) => a - b);

function keyIn(page: Uint8Array, slot: number): Float32Array {
  const [key, value] = [new Float32Array(64), new Float32Array(64)];
  codecs.f32.load(page, slot, key, value);
  return key;
}

/** A cache of two lanes that has seen `tokens` tokens with these keys, and queries that are all alike. */
function fed(
  policy: CachePolicy,
  tokens: number,
  keyOf: (lane: number) => Float32Array,
  below?: (cache: SequenceCache, keys: readonly (readonly Float32Array[])[]) => LowerTier,
) {
  const layout = planLayout({ kv, policy, codec: "f32", step: 16, pageTokens: 32 });
  const pool = new KvPool(reference, { pageBytes: layout.pageBytes, budgetBytes: 16 * layout.pageBytes });
  const cache = new SequenceCache(pool, layout);
  const stored: Float32Array[][] = [];
  if (below) cache.demoteTo(below(cache, stored));
  while (stored.length < tokens) {
    const count = Math.min(3, tokens - stored.length, cache.maxIncoming());
    const positions = Int32Array.from({ length: count }, (_, i) => stored.length + i);
    const { slots, views } = cache.prepare(positions, new Rotations());
    const { region, pageIdsAt, numPages, pageTokens, queries } = views[0]!;
    const ids = region.int32(pageIdsAt, numPages * 2);
    for (const slot of slots[0]!) {
      const keys = [0, 1].map((lane) => {
        const key = keyOf(lane);
        const id = ids[Math.floor(slot / pageTokens) * 2 + lane]!;
        const page = pool.arena.bytes(id * pool.pageBytes, pool.pageBytes);
        codecs.f32.store(page, slot % pageTokens, key, new Float32Array(64));
        return key;
      });
      stored.push(keys);
    }
    queries?.region.float32(0, 2 * 64).fill(1);
  }
  return { cache, pool, stored };
}

describe("bytes of thin keys", () => {
  const layoutOf = (policy: CachePolicy, codec: "f32" | "f16" | "int8" = "f16") =>
    planLayout({ kv, policy, codec, step: 64 });

  it("are pages saved: by share of keys, within a group of a page", () => {
    for (const codec of ["f32", "f16", "int8"] as const) {
      for (const keep of [0.3, 0.5, 0.6, 0.7]) {
        const [thin, whole] = [layoutOf(think({ of: full(), keep }), codec), layoutOf(full(), codec)];
        const bytes = [thin, whole].map((layout) => pagesFor(layout, 16384) * layout.pageBytes);
        const { groupBytes } = codecs[codec];
        const ideal = groupBytes(64, Math.round(keep * 64)) / groupBytes(64);
        expect(bytes[0]! / bytes[1]!).toBeGreaterThan(ideal);
        expect(bytes[0]! / bytes[1]!).toBeLessThan(ideal + 0.06);
      }
    }
  });

  it("are what a long stream holds, never more", () => {
    const policy = think({ of: sinks({ window: 2048 }), keep: 0.5 });
    const layout = layoutOf(policy);
    const [group] = layout.groups;
    const pages = pagesFor(layout, Number.POSITIVE_INFINITY);
    const pool = new KvPool(reference, {
      pageBytes: layout.pageBytes,
      budgetBytes: pages * layout.pageBytes,
    });
    const cache = new SequenceCache(pool, layout);
    const rotations = new Rotations();
    while (cache.length < 12_000) {
      const first = cache.nextPosition;
      const positions = Int32Array.from({ length: Math.min(64, cache.maxIncoming()) }, (_, i) => first + i);
      rotations.clear();
      cache.prepare(positions, rotations);
    }
    expect(pool.usage().peak).toBeLessThanOrEqual(pages);
    const { bytes, kept, thinned } = cache.report().groups[0]!;
    expect(thinned).toBeGreaterThan(kept - 4 - 192 - 1);
    // A page more in each part, and tables.
    const need =
      (thinned / group!.thin!.pageTokens + (kept - thinned) / group!.pageTokens + 3) * 2 * layout.pageBytes;
    const tables =
      4 * 8 * rowsFor(group!, { tokens: Number.POSITIVE_INFINITY, step: 64 }) * group!.thin!.pageTokens;
    expect(bytes).toBeLessThan(need + tables);
    expect(bytes).toBeLessThan(0.85 * kept * 2 * (codecs.f16.groupBytes(64) / 16));
  });
});
