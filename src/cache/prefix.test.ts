import { describe, expect, it } from "vitest";
import { readTokens, storeTokens } from "../../test/support/cache-model.js";
import { TestRandom } from "../../test/support/random.js";
import { createNull } from "../backends/null.js";
import type { KvLayer } from "../tape/tape.js";
import type { CodecName } from "./codecs/contract.js";
import type { CachePolicy } from "./contract.js";
import { type CacheLayout, pagesFor, planLayout } from "./layout.js";
import { full } from "./policies/full.js";
import { window } from "./policies/window.js";
import { KvPool } from "./pool.js";
import { PrefixLease } from "./prefix/lease.js";
import { blockTokens } from "./prefix/pages.js";
import { PrefixTree } from "./prefix.js";
import { Rotations } from "./rotations.js";
import { SequenceCache } from "./sequence.js";

const EVEN: KvLayer[] = [{ layer: 0, numKvHeads: 2, headWidth: 8, window: null }];
/** Two tables, whose pages have half as many tokens again in the first. */
const UNEVEN: KvLayer[] = [
  { layer: 0, numKvHeads: 2, headWidth: 32, window: null },
  { layer: 1, numKvHeads: 1, headWidth: 48, window: null },
];

const makeLayout = (kv: readonly KvLayer[], pageTokens = 16, codec: CodecName = "f32", policy = full()) =>
  planLayout({ kv, policy, codec, step: 40, pageTokens });

/** A pool and tree, and sequences on them whose pages say which tokens they hold. */
class Bench {
  readonly pool: KvPool;
  readonly tree: PrefixTree;
  readonly live: Sequence[] = [];

  constructor(
    readonly layout: CacheLayout,
    numPages: number,
  ) {
    const { pageBytes } = layout;
    this.pool = new KvPool(createNull(), { pageBytes, budgetBytes: numPages * pageBytes });
    this.tree = PrefixTree.over(this.pool, layout)!;
  }

  /** Pages that are neither used nor promised, as the engine counts them. */
  get freePages(): number {
    const promised = this.live.reduce((sum, { mostPages, lease }) => sum + mostPages - lease.pages, 0);
    return this.pool.numPages - this.tree.referenced - promised;
  }

  /** Starts a sequence, or null where its pages could run short. */
  start(tokens: readonly number[], promptTokens = tokens.length, namespace = ""): Sequence | null {
    const mostPages = pagesFor(this.layout, tokens.length);
    const prompt = Int32Array.from(tokens.slice(0, promptTokens));
    const found = this.tree.find(namespace, prompt);
    if (mostPages - found.referenced > this.freePages) return null;
    const cache = new SequenceCache(this.pool, this.layout);
    const lease = new PrefixLease(this.tree, namespace, prompt, cache);
    expect(lease.cached).toBe(found.tokens);
    expect(lease.following).toBe(found.promised);
    const sequence = new Sequence(this, namespace, Int32Array.from(tokens), mostPages, cache, lease);
    this.live.push(sequence);
    return sequence;
  }

  /** Runs a sequence alone from start to end; returns how many tokens it took over. */
  run(tokens: readonly number[], promptTokens = tokens.length, namespace = ""): number {
    const sequence = this.start(tokens, promptTokens, namespace)!;
    sequence.step(tokens.length);
    sequence.end();
    return sequence.lease.cached;
  }

  check(): void {
    const { pool, tree } = this;
    const held = new Set<number>();
    let [referenced, evictable, shared, tokens] = [0, 0, 0, 0];
    for (const node of tree.nodes()) {
      const pages = node.pages.flatMap((run) => [...run]);
      for (const page of pages) held.add(page);
      tokens += node.tokens.length;
      if (node.locks > 0) referenced += pages.length;
      else evictable += pages.length;
      if (node.locks > 1) shared += pages.length;
      // Who goes further down holds all above.
      if (node.locks > node.parent!.locks) throw new Error("A node has more locks than its parent");
      if (node.tokens.length % tree.block > 0) {
        const isTail = node.children.length + node.locks === 0 && node.tokens.length < tree.block;
        if (!isTail) throw new Error("Part of a block has children or locks");
      }
      for (const [i, child] of node.children.entries()) {
        const next = node.children[i + 1]?.tokens;
        const at = child.tokens.findIndex((token, t) => token !== next?.[t]);
        const ordered = !next || (at >= 0 && at < tree.block && child.tokens[at]! < next[at]!);
        if (child.parent !== node || !ordered) throw new Error("A child is out of place");
      }
    }
    expect(held.size).toBe(referenced + evictable);
    expect(tree.usage()).toMatchObject({ referenced, evictable, shared, tokens });
    for (const { lease } of this.live) {
      for (let node = lease.cursor.node; node.parent; node = node.parent) {
        if (node.locks === 0) throw new Error("A sequence uses what may be given up");
      }
    }
    const alone = new Set<number>();
    for (const each of this.live) {
      for (const page of each.ownPages()) if (!held.has(page)) alone.add(page);
    }
    expect(pool.numFree + referenced + evictable + alone.size).toBe(pool.numPages);
    expect(this.freePages).toBeGreaterThanOrEqual(0);
  }
}

class Sequence {
  #at: number;
  readonly #tags: number[] = [];

  constructor(
    readonly bench: Bench,
    readonly namespace: string,
    readonly tokens: Int32Array,
    readonly mostPages: number,
    readonly cache: SequenceCache,
    readonly lease: PrefixLease,
  ) {
    this.#at = lease.cached;
  }

  get left(): number {
    return this.tokens.length - this.#at;
  }

  ownPages(): number[] {
    const { cache, lease } = this;
    if (cache.nextPosition === lease.cursor.depth) return [];
    return cache.pagesOf(lease.cursor.depth, cache.nextPosition).flatMap((run) => [...run]);
  }

  follow(): void {
    this.lease.follow();
    this.#at = this.lease.cached;
  }

  step(count: number): void {
    for (let left = Math.min(count, this.left); left > 0; ) {
      const run = Math.min(left, this.cache.maxIncoming());
      this.#store(run);
      this.lease.settle();
      left -= run;
    }
  }

  /** As a step that fails when its tokens have slots already. */
  break(): void {
    if (this.left > 0) this.#store(1);
    this.lease.drop();
    this.#leave();
  }

  end(): void {
    this.verify();
    this.lease.end();
    this.#leave();
  }

  /** Every page that it sees holds what its own tokens would have left there. */
  verify(): void {
    const { pool, layout } = this.bench;
    for (const [g, group] of layout.groups.entries()) {
      const held = readTokens(pool, group, this.cache.views[g]!, (position) => this.#tag(position));
      expect(held.size).toBe(this.#at);
    }
    expect(this.cache.report()).toMatchObject({ seen: this.#at, kept: this.#at });
  }

  #store(count: number): void {
    const { pool, layout } = this.bench;
    const positions = Int32Array.from({ length: count }, (_, i) => this.#at + i);
    const { slots, views } = this.cache.prepare(positions, new Rotations());
    for (const [i, position] of positions.entries()) {
      const one = { views, slots: slots.map((each) => each.subarray(i, i + 1)) };
      storeTokens(pool, layout, one, Int32Array.of(position), this.#tag(position));
    }
    this.lease.ran(this.tokens.slice(this.#at, this.#at + count));
    this.#at += count;
  }

  /** Keys and values depend on all tokens up to their own, and on the namespace. */
  #tag(position: number): number {
    for (let i = this.#tags.length; i <= position; i++) {
      this.#tags.push(((this.#tags[i - 1] ?? this.namespace.length) * 31 + this.tokens[i]! + 1) % 997);
    }
    return this.#tags[position]!;
  }

  #leave(): void {
    this.cache.dispose();
    this.bench.live.splice(this.bench.live.indexOf(this), 1);
  }
}

const upTo = (count: number, from = 0) => Array.from({ length: count }, (_, i) => from + i);

describe("PrefixTree", () => {
  it("is not for caches that let go of tokens, and takes blocks of whole rows in every table", () => {
    expect(blockTokens(makeLayout(EVEN))).toBe(16);
    expect(blockTokens(makeLayout(EVEN, 64))).toBe(64);
    expect(makeLayout(UNEVEN, 32).groups.map(({ pageTokens }) => pageTokens)).toEqual([48, 32]);
    expect(blockTokens(makeLayout(UNEVEN, 32))).toBe(96);
    expect(blockTokens(makeLayout(EVEN, 16, "f32", window({ tokens: 64 })))).toBeNull();
    const sliding: KvLayer[] = [...EVEN, { layer: 1, numKvHeads: 1, headWidth: 8, window: 24 }];
    expect(blockTokens(makeLayout(sliding))).toBeNull();
  });

  it("gives a prompt all of its tokens that were run before, but for the last", () => {
    const bench = new Bench(makeLayout(EVEN), 64);
    expect(bench.run(upTo(40))).toBe(0);
    expect(bench.run(upTo(40))).toBe(39);
    expect(bench.run(upTo(50))).toBe(40);
    expect(bench.run(upTo(33))).toBe(32);
    expect(bench.run([...upTo(20), 99, 98])).toBe(20);
    expect(bench.run([99, ...upTo(20)])).toBe(0);
    expect(bench.tree.usage()).toMatchObject({
      lookups: 6,
      hits: 4,
      hitTokens: 131,
      lookupTokens: 40 + 40 + 50 + 33 + 22 + 21,
    });
    bench.check();
  });

  it("gives the next turn of a conversation its answer, too", () => {
    const bench = new Bench(makeLayout(EVEN), 64);
    // The last token of an answer is never run.
    bench.run(upTo(57), 25);
    expect(bench.run(upTo(90), 70)).toBe(57);
  });

  it("tells namespaces apart", () => {
    const bench = new Bench(makeLayout(EVEN), 64);
    bench.run(upTo(40));
    expect(bench.run(upTo(40), 40, "adapter")).toBe(0);
    expect(bench.run(upTo(40), 40, "adapter")).toBe(39);
  });

  it("holds tokens once, however many bring them", () => {
    const bench = new Bench(makeLayout(EVEN), 64);
    const [first, second] = [bench.start(upTo(48))!, bench.start(upTo(48))!];
    expect(second.lease.following).toBe(true);
    // Nobody waits here.
    first.step(40);
    second.step(40);
    bench.check();
    expect(bench.tree.usage()).toMatchObject({ referenced: 2 * 2, shared: 2 * 2, tokens: 32 });
    expect(second.cache.pagesOf(0, 32)).toEqual(first.cache.pagesOf(0, 32));
    first.verify();
    first.end();
    second.end();
    expect(bench.tree.usage()).toMatchObject({ evictable: 3 * 2, referenced: 0, tokens: 40 });
    bench.check();
  });

  it("lets who begins alike wait for the blocks that another is about to run, and no longer", () => {
    const bench = new Bench(makeLayout(EVEN), 96);
    const prompt = upTo(100);
    const leader = bench.start(prompt)!;
    const same = bench.start(prompt)!;
    const other = bench.start([...upTo(40), ...upTo(60, 200)])!;
    for (const each of [same, other]) expect(each.lease).toMatchObject({ cached: 0, following: true });
    leader.step(32);
    for (const each of [same, other]) each.follow();
    expect(same.lease).toMatchObject({ cached: 32, following: true });
    // From here on it goes its own way.
    expect(other.lease).toMatchObject({ cached: 32, following: false });
    leader.step(68);
    same.follow();
    expect(same.lease).toMatchObject({ cached: 96, following: false });
    bench.check();
    for (const each of [leader, same, other]) {
      each.step(100);
      each.end();
    }
    bench.check();
  });

  it("lets the next go ahead when the one it waited for goes", () => {
    for (const leave of ["end", "break"] as const) {
      const bench = new Bench(makeLayout(EVEN), 96);
      const [leader, second, third] = upTo(3).map(() => bench.start(upTo(80))!);
      leader!.step(20);
      leader![leave]();
      second!.follow();
      third!.follow();
      expect(second!.lease).toMatchObject({ following: false, cached: leave === "end" ? 20 : 16 });
      expect(third!.lease).toMatchObject({ following: true, cached: 16 });
      bench.check();
    }
  });

  it("gives up what was used least recently, from its end, when a page is needed", () => {
    const bench = new Bench(makeLayout(EVEN), 2 * 8);
    bench.run(upTo(48, 100));
    bench.run(upTo(48, 200));
    bench.run(upTo(48, 100));
    // Two blocks are free; the second needs three.
    bench.run(upTo(48, 300));
    expect(bench.run(upTo(49, 100))).toBe(48);
    expect(bench.tree.find("", Int32Array.from(upTo(49, 200))).tokens).toBe(32 - 16);
    expect(bench.tree.find("", Int32Array.from(upTo(49, 300))).tokens).toBe(48);
    bench.check();
    bench.tree.clear();
    expect(bench.tree.usage()).toMatchObject({ tokens: 0, evictable: 0, evictedPages: 2 * 10 });
    expect(bench.pool.usage()).toMatchObject({ used: 0, shared: 0 });
  });

  it("never gives up what is in use, and refuses what would need it", () => {
    const bench = new Bench(makeLayout(EVEN), 2 * 4);
    const first = bench.start(upTo(48))!;
    first.step(33);
    expect(bench.start(upTo(32, 100))).toBeNull();
    const second = bench.start(upTo(48))!;
    expect(second.lease.cached).toBe(32);
    first.step(48);
    second.step(48);
    bench.check();
    first.end();
    second.end();
    expect(bench.run(upTo(64, 100))).toBe(0);
    expect(bench.tree.usage().tokens).toBe(64);
  });

  it("takes over part of a block even where its page is the last one", () => {
    const bench = new Bench(makeLayout(EVEN), 2);
    bench.run(upTo(16));
    expect(bench.run([...upTo(10), 99, 98])).toBe(10);
    bench.check();
    expect(bench.run([...upTo(10), 99, 98, 97])).toBe(12);
  });

  it.each([
    ["pages of 16", EVEN, 16, "f16"],
    ["pages of 32, int8", EVEN, 32, "int8"],
    ["two tables", UNEVEN, 32, "f32"],
  ] as const)("keeps its word through random operations: %s", (_, kv, pageTokens, codec) => {
    const layout = makeLayout(kv, pageTokens, codec);
    for (let seed = 1; seed <= 2; seed++) {
      const random = new TestRandom(seed);
      const bench = new Bench(layout, pagesFor(layout, 150 + random.below(400)));
      const streams: number[][] = [];
      const pick = () => bench.live[random.below(bench.live.length)];
      for (let i = 0; i < 120; i++) {
        const action = random.below(10);
        if (action < 4) {
          const from = streams[random.below(streams.length + 1)] ?? [];
          const tokens = [...from.slice(0, random.below(from.length + 1))];
          for (let more = 1 + random.below(60); more > 0; more--) tokens.push(random.below(2));
          streams.push(tokens);
          if (pagesFor(layout, tokens.length) > bench.pool.numPages) continue;
          bench.start(tokens, 1 + random.below(tokens.length), random.below(5) === 0 ? "other" : "");
        } else if (action < 8) {
          const sequence = pick();
          if (sequence?.lease.following && random.below(4) > 0) sequence.follow();
          else if (sequence) {
            // Who goes ahead without waiting must be able to, too.
            sequence.step(1 + random.below(50));
          }
        } else if (action === 8) pick()?.end();
        else if (random.below(3) === 0) pick()?.break();
        else pick()?.verify();
        bench.check();
      }
      for (const sequence of [...bench.live]) sequence.end();
      bench.check();
      bench.tree.clear();
      expect([...bench.tree.nodes()]).toEqual([]);
      expect(bench.pool.usage()).toMatchObject({ used: 0, shared: 0 });
    }
  });
});

/** So that a policy that lets go of nothing, and one that does, are told apart by what they say. */
describe("keepsAll", () => {
  it("is said by the policy that keeps all, alone", () => {
    const policies: CachePolicy[] = [full(), window({ tokens: 32 })];
    expect(policies.map(({ keepsAll }) => keepsAll ?? false)).toEqual([true, false]);
  });
});
