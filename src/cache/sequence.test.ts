import { describe, expect, it } from "vitest";
import { Followed, readTokens, storeTokens } from "../../test/support/cache-model.js";
import { TestRandom } from "../../test/support/random.js";
import { createNull } from "../backends/null.js";
import { MillraceError } from "../errors.js";
import type { KvLayer } from "../tape/tape.js";
import type { CodecName } from "./codecs/contract.js";
import type { CachePolicy, LaneView, PolicyOfLane } from "./contract.js";
import { type CacheLayout, pagesFor, planLayout } from "./layout.js";
import { contiguous } from "./policies/contiguous.js";
import { full } from "./policies/full.js";
import { window } from "./policies/window.js";
import { KvPool } from "./pool.js";
import { Rotations } from "./rotations.js";
import { byScore } from "./score.js";
import { SequenceCache } from "./sequence.js";
import type { Snapshot } from "./snapshot.js";

const KV: KvLayer[] = [
  { layer: 0, numKvHeads: 2, headWidth: 8, window: null },
  { layer: 1, numKvHeads: 2, headWidth: 8, window: 24 },
  { layer: 2, numKvHeads: 1, headWidth: 20, window: null },
];

/** Keeps what a hash of position and time says: holes everywhere. */
const scattered = (tokens: number): CachePolicy =>
  byScore({
    id: `scattered(${tokens})`,
    tokens,
    sinks: 3,
    mass: {},
    score: (view: LaneView) =>
      Float32Array.from(
        view.positions,
        (position) => (Math.imul(position + view.seen, 0x9e3779b1) >>> 8) % 1000,
      ),
  });

/** Drops all but the last few of every second hundred, so that whole rows of holes appear at once. */
const bursts = (): CachePolicy => ({
  id: "bursts",
  sinks: 5,
  capacity: ({ tokens }) => Math.min(tokens, 400),
  plan(view) {
    const moves = [{ kind: "move", segment: "sinks", offset: Math.max(0, view.seen - 100) }] as const;
    if (view.length + view.incoming <= 360) return moves;
    const slots = [...view.oldest()].filter((_, i) => i >= 5 && i % 7 !== 0).slice(0, 300);
    return [{ kind: "drop", slots }, ...moves];
  },
});

function makeLayout(
  policy: CachePolicy | PolicyOfLane,
  codec: CodecName = "f32",
  pageTokens = 16,
): CacheLayout {
  return planLayout({ kv: KV, policy, codec, step: 40, pageTokens });
}

function makePool(layout: CacheLayout, numPages: number): KvPool {
  return new KvPool(createNull(), { pageBytes: layout.pageBytes, budgetBytes: numPages * layout.pageBytes });
}

const upFrom = (first: number, count: number) => Int32Array.from({ length: count }, (_, i) => first + i);

function feed(cache: SequenceCache, pool: KvPool, count: number): void {
  for (let left = count; left > 0; ) {
    const positions = upFrom(cache.nextPosition, Math.min(left, cache.maxIncoming()));
    storeTokens(pool, cache.layout, cache.prepare(positions, new Rotations()), positions);
    left -= positions.length;
  }
}

describe("random operations agree with a model that has no pages", () => {
  const policies: [string, () => CachePolicy | PolicyOfLane][] = [
    ["full", full],
    ["window", () => window({ tokens: 50 })],
    ["scattered", () => scattered(70)],
    ["settled", () => contiguous(scattered(68), 17)],
    ["bursts", bursts],
    [
      "by layer",
      () =>
        ({ layer }) =>
          layer === 0 ? scattered(33) : window({ tokens: 100 }),
    ],
  ];
  for (const codec of ["f32", "f16", "int8"] as const) {
    for (const [name, policy] of policies) {
      it(`${name}, ${codec}`, () =>
        randomOperations(makeLayout(policy(), codec), name.length, codec === "f32" ? 200 : 80));
    }
  }
});

interface Live {
  readonly followed: Followed;
  readonly cache: SequenceCache;
  /** What was stored at each position: forks diverge. */
  readonly tags: Map<number, number>;
}

function randomOperations(layout: CacheLayout, seed: number, count: number): void {
  const random = new TestRandom(seed);
  const pool = makePool(layout, 150);
  const rotations = new Rotations();
  const open = (cache: SequenceCache, from?: Live): Live => ({
    cache,
    followed: new Followed(cache, from?.followed),
    tags: new Map(from?.tags),
  });
  const live: Live[] = [open(new SequenceCache(pool, layout))];
  let refused = 0;
  let forked = 0;
  for (let tag = 0; tag < count; tag++) {
    const one = live[random.below(live.length)]!;
    const { cache, followed, tags } = one;
    const choice = random.next();
    if (choice < 0.75) {
      const wanted = 1 + random.below(random.next() < 0.5 ? 2 : cache.maxIncoming());
      const positions = upFrom(
        cache.nextPosition + (random.next() < 0.1 ? 3 : 0),
        Math.min(wanted, cache.maxIncoming()),
      );
      const before = JSON.stringify([cache.report(), pool.usage()]);
      const needed = cache.pagesNeeded(positions.length);
      try {
        rotations.clear();
        const prepared = cache.prepare(positions, rotations);
        storeTokens(pool, layout, prepared, positions, tag);
        followed.stored(positions);
        for (const position of positions) tags.set(position, tag);
      } catch (error) {
        expect(error).toBeInstanceOf(MillraceError);
        expect((error as MillraceError).code).toBe("OUT_OF_BUDGET");
        expect(needed).toBeGreaterThan(pool.numFree);
        expect(JSON.stringify([cache.report(), pool.usage()])).toBe(before);
        refused++;
        live.splice(live.indexOf(one), 1);
        cache.dispose();
      }
    } else if (choice < 0.85 && live.length < 5) {
      live.push(open(cache.fork(), one));
      forked++;
    } else if (choice < 0.93) {
      const to = Math.max(0, cache.nextPosition - random.below(60));
      if (cache.rewindable(to) === "gone") expect(() => cache.rewind(to)).toThrow(MillraceError);
      else {
        cache.rewind(to);
        expect(cache.nextPosition).toBe(to);
      }
    } else if (choice < 0.96) {
      live.splice(live.indexOf(one), 1);
      cache.dispose();
      cache.dispose();
    } else {
      const saved = cache.serialize();
      cache.dispose();
      const pages = cache.layout.groups.reduce((sum, _, g) => sum + pagesOf(saved, cache.layout, g), 0);
      if (pages > pool.numFree) {
        // Pages that forks share are saved with each.
        expect(() => SequenceCache.restore(pool, layout, saved)).toThrow(/more pages/);
        live.splice(live.indexOf(one), 1);
      } else {
        const restored = SequenceCache.restore(pool, layout, saved);
        live[live.indexOf(one)] = open(restored, one);
        const again = restored.serialize();
        expect(again.header).toBe(saved.header);
        expect(Buffer.compare(again.bytes, saved.bytes)).toBe(0);
      }
    }
    if (live.length === 0) live.push(open(new SequenceCache(pool, layout)));
    check(pool, live, tag % 20 === 0);
  }
  expect(forked).toBeGreaterThan(2);
  if (layout.groups[0]!.policy.id === "full" && count >= 200) expect(refused).toBeGreaterThan(0);
  for (const { cache } of live) cache.dispose();
  expect(pool.usage()).toMatchObject({ free: pool.numPages, used: 0, shared: 0 });
}

function pagesOf(saved: Snapshot, layout: CacheLayout, group: number): number {
  const header = JSON.parse(saved.header) as { groups: { rows: number }[] };
  return header.groups[group]!.rows * layout.groups[group]!.lanes.length;
}

function check(pool: KvPool, live: readonly Live[], thoroughly: boolean): void {
  const owners = new Map<number, number>();
  for (const { cache, followed, tags } of live) {
    const report = cache.report();
    for (const [g, group] of cache.layout.groups.entries()) {
      const counts = report.groups[g]!;
      expect(counts.kept + counts.dropped + counts.expired).toBe(counts.seen);
      expect(counts).toMatchObject({
        kept: followed.held[g]!.size,
        dropped: followed.lost[g]!.drop,
        expired: followed.lost[g]!.expire,
      });
      const view = cache.views[g]!;
      expect(view.numPages * group.lanes.length).toBe(counts.pages);
      for (const page of view.region.int32(view.pageIdsAt, counts.pages)) {
        owners.set(page, (owners.get(page) ?? 0) + 1);
      }
      if (!thoroughly) continue;
      const tokens = readTokens(pool, group, view, (position) => tags.get(position)!);
      expect([...tokens.keys()].sort((a, b) => a - b)).toEqual([...followed.held[g]!].sort((a, b) => a - b));
    }
    expect(report.groups.reduce((sum, { pages }) => sum + pages, 0)).toBeLessThanOrEqual(
      pagesFor(cache.layout, Number.POSITIVE_INFINITY),
    );
  }
  const { used, shared } = pool.usage();
  expect(used).toBe(owners.size);
  expect(shared).toBe([...owners.values()].filter((count) => count > 1).length);
}

function thrownBy(act: () => unknown): MillraceError {
  try {
    act();
  } catch (error) {
    if (error instanceof MillraceError) return error;
    throw error;
  }
  throw new Error("Nothing was thrown");
}

describe("SequenceCache", () => {
  it("holds a window in as many pages as it needs, for ever", () => {
    const layout = makeLayout(window({ tokens: 48 }));
    const pool = makePool(layout, pagesFor(layout, Number.POSITIVE_INFINITY));
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 5000);
    const { seen, kept, dropped, groups } = cache.report();
    expect([seen, kept, dropped]).toEqual([5000, 44, 4956]);
    expect(groups.map((group) => [group.kept, group.dropped, group.expired])).toEqual([
      [44, 4956, 0],
      [31, 0, 4969],
      [44, 4956, 0],
    ]);
    expect(pool.usage().peak).toBeLessThanOrEqual(pool.numPages);
  });

  it("gives rows of holes back to the pool", () => {
    const layout = planLayout({ kv: [KV[0]!], policy: bursts(), codec: "int8", step: 40, pageTokens: 16 });
    const pool = makePool(layout, 100);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 360);
    expect(pool.usage().used).toBe(2 * (1 + 23));
    feed(cache, pool, 10);
    // 355 stream tokens lost 300 and 10 came: 65 fit 5 rows, and holes of less than two rows may stay.
    expect(cache.report().groups[0]).toMatchObject({ kept: 70, dropped: 300 });
    expect(pool.usage().used).toBeLessThanOrEqual(2 * (1 + 6));
  });

  it("moves a segment by pointing its pages, and no others, at a rotation by the negative offset", () => {
    const layout = planLayout({ kv: [KV[0]!], policy: bursts(), codec: "f32", step: 40, pageTokens: 16 });
    const pool = makePool(layout, 100);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 130);
    const rotations = new Rotations();
    rotations.rowOf(7);
    const positions = upFrom(130, 1);
    const prepared = cache.prepare(positions, rotations);
    storeTokens(pool, layout, prepared, positions);
    expect([...rotations.values()]).toEqual([7, -30]);
    const tokens = readTokens(pool, layout.groups[0]!, prepared.views[0]!, () => 0);
    for (const [position, { rotation }] of tokens) expect(rotation).toBe(position < 5 ? 1 : -1);
    rotations.clear();
    cache.fork().prepare(upFrom(131, 1), rotations);
    expect([...rotations.values()]).toEqual([-31]);
  });

  it("tells of every change, with original positions as runs", () => {
    const layout = planLayout({
      kv: [KV[0]!],
      policy: window({ tokens: 32 }),
      codec: "f32",
      step: 40,
      pageTokens: 16,
    });
    const pool = makePool(layout, 100);
    const cache = new SequenceCache(pool, layout);
    const events: unknown[] = [];
    const stop = cache.onChange((event) => events.push(event));
    feed(cache, pool, 32);
    expect(events).toEqual([]);
    feed(cache, pool, 3);
    cache.rewind(33);
    stop();
    feed(cache, pool, 9);
    expect(events).toEqual([
      { kind: "drop", group: 0, count: 8, ranges: [[0, 7]] },
      { kind: "rewind", group: 0, count: 2, ranges: [[33, 34]] },
    ]);
  });

  it("says how exact a rewind would be", () => {
    const layout = planLayout({
      kv: [KV[0]!],
      policy: window({ tokens: 32 }),
      codec: "f32",
      step: 40,
      pageTokens: 16,
    });
    const pool = makePool(layout, 100);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 36);
    const states = [36, 32, 31, 9, 8, 0].map((to) => cache.rewindable(to));
    expect(states).toEqual(["exact", "exact", "approximate", "approximate", "gone", "gone"]);
    expect(thrownBy(() => cache.rewind(8))).toMatchObject({ code: "INVALID_ARGUMENT", details: { to: 8 } });
    cache.rewind(31);
    expect(cache.report()).toMatchObject({ seen: 31, kept: 23, dropped: 8 });
  });

  it("refuses positions that do not ascend and more tokens than it takes", () => {
    const layout = makeLayout(window({ tokens: 20 }));
    const pool = makePool(layout, 100);
    const cache = new SequenceCache(pool, layout);
    expect(cache.maxIncoming()).toBe(20);
    feed(cache, pool, 20);
    expect(cache.maxIncoming()).toBe(5);
    const before = cache.serialize();
    for (const positions of [upFrom(19, 1), upFrom(20, 6), new Int32Array(), Int32Array.of(20, 20)]) {
      expect(thrownBy(() => cache.prepare(positions, new Rotations())).code).toBe("INVALID_ARGUMENT");
    }
    expect(cache.serialize()).toEqual(before);
  });

  it("refuses plans that name wrong slots or keep too much, and stays as it was", () => {
    const plans: CachePolicy["plan"][] = [
      () => [{ kind: "drop", slots: [0, 0] }],
      () => [{ kind: "drop", slots: [15] }],
      () => [{ kind: "drop", slots: [-1] }],
      () => [{ kind: "drop", slots: [16 * 1000] }],
      () => [],
    ];
    for (const plan of plans) {
      let active = false;
      const policy: CachePolicy = {
        id: "wrong",
        capacity: () => 12,
        plan: (view) => (active ? plan(view) : []),
      };
      const layout = planLayout({ kv: [KV[0]!], policy, codec: "f32", step: 12, pageTokens: 16 });
      const pool = makePool(layout, 10);
      const cache = new SequenceCache(pool, layout);
      feed(cache, pool, 12);
      const before = cache.serialize();
      active = true;
      expect(thrownBy(() => cache.prepare(upFrom(12, 1), new Rotations())).code).toBe("INTERNAL");
      expect(cache.serialize()).toEqual(before);
    }
  });

  it("stays as it was where the backend refuses to let a table grow", () => {
    let refuse = false;
    const inner = createNull();
    const allocate = (byteLength: number) => {
      if (refuse) throw new MillraceError("OUT_OF_BUDGET", "refused");
      return inner.allocate(byteLength);
    };
    const layout = planLayout({
      kv: [KV[0]!, { ...KV[0]!, layer: 1 }],
      policy: ({ layer }) => (layer === 1 ? scattered(200) : window({ tokens: 30 })),
      codec: "f32",
      step: 40,
      pageTokens: 16,
    });
    const options = { pageBytes: layout.pageBytes, budgetBytes: 200 * layout.pageBytes };
    const pool = new KvPool({ ...inner, allocate }, options);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 49);
    const [before, usage] = [cache.serialize(), pool.usage()];
    refuse = true;
    const positions = upFrom(49, cache.maxIncoming());
    expect(positions.length).toBeGreaterThan(4);
    expect(thrownBy(() => cache.prepare(positions, new Rotations())).code).toBe("OUT_OF_BUDGET");
    expect(thrownBy(() => cache.fork()).code).toBe("OUT_OF_BUDGET");
    expect([cache.serialize(), pool.usage()]).toEqual([before, usage]);
    refuse = false;
    cache.prepare(positions, new Rotations());
    expect(cache.report()).toMatchObject({ seen: 49 + positions.length });
  });

  it("is closed once disposed", () => {
    const layout = makeLayout(full());
    const cache = new SequenceCache(makePool(layout, 10), layout);
    cache.dispose();
    expect(thrownBy(() => cache.prepare(upFrom(0, 1), new Rotations())).code).toBe("CLOSED");
    expect(thrownBy(() => cache.report()).code).toBe("CLOSED");
  });

  it("refuses a pool of other pages", () => {
    const layout = makeLayout(full());
    const pool = new KvPool(createNull(), { pageBytes: 64, budgetBytes: 640 });
    expect(thrownBy(() => new SequenceCache(pool, layout)).code).toBe("INVALID_ARGUMENT");
  });
});

describe("snapshots", () => {
  const layout = makeLayout(scattered(40), "int8");

  function saved(): Snapshot {
    const pool = makePool(layout, 60);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 100);
    return cache.serialize();
  }

  it("goes on in the same slots as the cache that was saved", () => {
    const pool = makePool(layout, 60);
    const cache = new SequenceCache(pool, layout);
    feed(cache, pool, 100);
    const again = SequenceCache.restore(makePool(layout, 60), layout, cache.serialize());
    for (let i = 0; i < 200; i++) {
      const positions = upFrom(cache.nextPosition, 1 + (i % cache.maxIncoming()));
      const slots = cache.prepare(positions, new Rotations()).slots.map((array) => [...array]);
      expect(again.prepare(positions, new Rotations()).slots.map((array) => [...array])).toEqual(slots);
    }
  });

  it("refuses another layout, saying both", () => {
    const other = makeLayout(scattered(41), "int8");
    const error = thrownBy(() => SequenceCache.restore(makePool(other, 60), other, saved()));
    expect(error.code).toBe("BAD_FORMAT");
    expect(error.message).toContain("scattered(40)");
    expect(error.message).toContain("scattered(41)");
  });

  it("never trusts: every mutation of header or tables is refused or restores consistently, and leaks nothing", () => {
    const random = new TestRandom(5);
    const good = saved();
    const numbers = [...good.header.matchAll(/-?\d+/g)];
    let refused = 0;
    for (let i = 0; i < 400; i++) {
      const pool = makePool(layout, 60);
      const bytes = good.bytes.slice(0, random.next() < 0.1 ? random.below(good.bytes.length) : undefined);
      let { header } = good;
      if (random.next() < 0.5) {
        const { index, 0: text } = numbers[random.below(numbers.length)]!;
        const value = [-1, 0, 1, 2 ** 31, 1e15, 0.5, "null"][random.below(7)]!;
        header = header.slice(0, index) + value + header.slice(index + text.length);
      } else {
        bytes[random.below(64 * 4)] = random.below(256);
      }
      try {
        const cache = SequenceCache.restore(pool, layout, { header, bytes });
        for (const { kept, dropped, expired, seen } of cache.report().groups) {
          expect(kept + dropped + expired).toBe(seen);
        }
        cache.dispose();
      } catch (error) {
        expect(error).toBeInstanceOf(MillraceError);
        expect(["BAD_FORMAT", "OUT_OF_BUDGET"]).toContain((error as MillraceError).code);
        refused++;
      }
      expect(pool.usage()).toMatchObject({ used: 0, shared: 0 });
    }
    expect(refused).toBeGreaterThan(200);
  });
});
