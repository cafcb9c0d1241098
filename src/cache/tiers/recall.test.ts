import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readTokens, storeTokens } from "../../../test/support/cache-model.js";
import { type CacheRunner, difference, TinyHost } from "../../../test/support/cache-runner.js";
import { TestRandom } from "../../../test/support/random.js";
import { Folders, openRecall, SETTINGS } from "../../../test/support/recall.js";
import { tinyPrompt } from "../../../test/support/tiny-models.js";
import { createReference } from "../../backends/reference/index.js";
import { CODEC_NAMES } from "../codecs/contract.js";
import type { CachePolicy, PolicyOfLane } from "../contract.js";
import { pagesFor, planLayout } from "../layout.js";
import { h2o } from "../policies/h2o.js";
import { sinks } from "../policies/sinks.js";
import { window } from "../policies/window.js";
import { Rotations } from "../rotations.js";
import { type CacheEvent, SequenceCache } from "../sequence.js";
import { Recall } from "./recall.js";
import { recallPages } from "./recall-settings.js";

const folders = new Folders();
afterAll(() => folders.remove());

const backend = createReference();
const STEP = 16;

async function makeRunner(
  policy: CachePolicy | PolicyOfLane,
  options: {
    codec?: "f32" | "f16" | "int8";
    tokens?: number;
    sequences?: number;
    model?: "llama" | "gemma3";
  } = {},
) {
  const { codec = "f32", tokens = SETTINGS.tokens, sequences = 1, model = "llama" } = options;
  const host = await TinyHost.open(model, backend);
  const layout = planLayout({ kv: host.tape.kv, policy, codec, step: STEP, pageTokens: 16 });
  const pages = pagesFor(layout, Number.POSITIVE_INFINITY) + recallPages(host.tape, layout, tokens);
  const runner = await host.runner(layout, pages * sequences);
  return { host, layout, runner, parts: { pool: runner.pool, layout, tape: host.tape } };
}

/** Stores tokens whose keys and values tell what they are; by default their ids are their positions. */
function feed(
  cache: SequenceCache,
  recall: Recall,
  runner: CacheRunner,
  count: number,
  idOf = (position: number) => position,
): void {
  for (let left = count; left > 0; ) {
    const length = Math.min(left, cache.maxIncoming());
    const positions = Int32Array.from({ length }, (_, i) => cache.nextPosition + i);
    storeTokens(runner.pool, cache.layout, cache.prepare(positions, new Rotations()), positions);
    recall.saw(positions, positions.map(idOf));
    left -= length;
  }
}

const upFrom = (first: number, count: number) => Int32Array.from({ length: count }, (_, i) => first + i);

function balanced(cache: SequenceCache): void {
  const report = cache.report();
  for (const group of report.groups) {
    expect(group.kept + group.demoted + group.dropped + group.expired + group.merged).toBe(report.seen);
  }
  expect(report.kept + report.demoted + report.dropped + report.merged).toBe(report.seen);
}

describe("Recall", () => {
  it.each(CODEC_NAMES)("gives demoted tokens back bit for bit, as %s", async (codec) => {
    for (const policy of [window({ tokens: 50 }), h2o({ heavy: 20, recent: 20 })]) {
      const { layout, runner, parts } = await makeRunner(policy, { codec });
      const { cache, recall } = await openRecall(parts, folders.fresh());
      feed(cache, recall, runner, 400);
      balanced(cache);
      const { demoted, dropped } = cache.report();
      expect(dropped).toBe(0);
      expect(demoted).toBeGreaterThan(340);
      for (const wanted of [7, 120, 300]) {
        const { tokens, ranges, lost } = await recall.recall({ ids: [wanted, wanted + 1] });
        expect(lost).toBe(0);
        expect(tokens).toBeGreaterThan(0);
        const view = cache.views[0]!.next!;
        const found = readTokens(runner.pool, layout.groups[0]!, view, () => 0);
        expect(found.size).toBe(tokens);
        expect(found.has(wanted)).toBe(true);
        const told = ranges[0]!.flatMap(([first, last]) => [...upFrom(first, last - first + 1)]);
        expect(told).toEqual([...found.keys()].sort((a, b) => a - b));
      }
      await recall.dispose();
      cache.dispose();
      expect(runner.pool.usage().used).toBe(0);
    }
  });

  it("equals a cache that never lost what was recalled, wherever it lay", async () => {
    for (const policy of [window({ tokens: 40 }), sinks({ window: 32 })]) {
      const { host, layout, runner, parts } = await makeRunner(policy);
      const { cache, recall } = await openRecall(parts, folders.fresh());
      const oracle = await host.oracle(layout, 200);
      const hidden = new Set<number>();
      const lent = new Map<number, number>();
      let sinkOffset = 0;
      cache.onChange((event: CacheEvent) => {
        if (event.kind === "move") sinkOffset = event.offset;
        if (event.kind === "recall") for (const position of lent.keys()) hidden.add(position);
        if (event.kind === "recall") lent.clear();
        if (event.kind !== "demote" && event.kind !== "recall") return;
        for (const [first, last] of event.ranges) {
          for (const position of upFrom(first, last - first + 1)) {
            if (event.kind === "demote") hidden.add(position);
            else lent.set(position, 0);
          }
        }
        if (event.kind === "recall") for (const position of lent.keys()) hidden.delete(position);
      });
      const numSinks = policy.sinks ?? 0;
      const prompt = tinyPrompt(200);
      const run = async (tokens: readonly number[]) => {
        const want: Float32Array[] = [];
        const got = await runner.run(cache, tokens, {
          afterStep: async (part) => {
            recall.saw(upFrom(cache.nextPosition - part.length, part.length), part);
            // Lent tokens end just before the stream, in order of time and without holes.
            const stream = cache.nextPosition - (cache.report().groups[0]!.kept - numSinks);
            const sorted = [...lent.keys()].sort((a, b) => a - b);
            for (const [i, position] of sorted.entries()) {
              lent.set(position, stream - sorted.length + i - position);
            }
            want.push(
              ...(await oracle.run(part, {
                hidden: (_, position) => hidden.has(position),
                offset: (_, position) =>
                  position < numSinks ? sinkOffset && sinkOffset - lent.size : (lent.get(position) ?? 0),
              })),
            );
          },
        });
        expect(difference(got, want)).toBeLessThan(2e-4);
      };
      await run(prompt.slice(0, 150));
      for (const wanted of [10, 60, 85]) {
        await recall.recall({ ids: prompt.slice(wanted, wanted + 4) });
        expect(lent.has(wanted)).toBe(true);
        await run(prompt.slice(cache.nextPosition, cache.nextPosition + 13));
      }
      // All of it: then only the keys and values that were computed without it differ from the full cache's.
      await recall.dispose();
    }
  });

  it("goes on after save and restore, and in a fork, exactly as without", async () => {
    const { runner, layout, parts } = await makeRunner(sinks({ window: 32 }), { sequences: 3 });
    const { cache, recall } = await openRecall(parts, folders.fresh());
    const prompt = tinyPrompt(200);
    const run = async (which: SequenceCache, its: Recall, count: number) => {
      const tokens = prompt.slice(which.nextPosition, which.nextPosition + count);
      return runner.run(which, tokens, {
        afterStep: (part) => its.saw(upFrom(which.nextPosition - part.length, part.length), part),
      });
    };
    await run(cache, recall, 130);
    await recall.recall({ ids: prompt.slice(20, 24) });
    await run(cache, recall, 5);

    const saved = folders.fresh();
    const state = JSON.parse(JSON.stringify(await recall.save(saved)));
    const snapshot = cache.serialize();
    const fork = cache.fork();
    const forkRecall = await recall.fork(fork, folders.fresh());
    const restored = SequenceCache.restore(runner.pool, layout, snapshot);
    const restoredRecall = await Recall.restore(
      { ...parts, cache: restored, fingerprint: "test", folder: folders.fresh(), settings: SETTINGS },
      saved,
      state,
    );
    const all = [
      [cache, recall],
      [fork, forkRecall],
      [restored, restoredRecall],
    ] as const;
    for (const question of [null, prompt.slice(90, 95), prompt.slice(130, 134)]) {
      const logits: Float32Array[][] = [];
      const lent: number[] = [];
      for (const [its, tier] of all) {
        if (question) {
          const { tokens, lost } = await tier.recall({ ids: question });
          expect(tokens).toBeGreaterThan(0);
          expect(lost).toBe(0);
          lent.push(tokens);
        }
        logits.push(await run(its, tier, 10));
        balanced(its);
      }
      expect(new Set(lent).size).toBeLessThanOrEqual(1);
      expect(difference(logits[1]!, logits[0]!)).toBe(0);
      expect(difference(logits[2]!, logits[0]!)).toBe(0);
    }
    for (const [its, tier] of all) {
      expect(its.report()).toEqual(cache.report());
      await tier.dispose();
      expect(existsSync(tier.folder)).toBe(false);
    }
    for (const [its] of all) its.dispose();
    expect(readdirSync(saved).length).toBeGreaterThan(0);
    expect(runner.pool.usage().used).toBe(0);
  });

  it("attends no more than there is room for, whatever was saved", async () => {
    const { runner, layout, parts } = await makeRunner(window({ tokens: 32 }), { sequences: 2 });
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 400);
    const saved = folders.fresh();
    const state = await recall.save(saved);
    const every = Array.from({ length: 40 }, (_, serial) => serial);
    const restored = SequenceCache.restore(runner.pool, layout, cache.serialize());
    const tier = await Recall.restore(
      { ...parts, cache: restored, fingerprint: "test", folder: folders.fresh(), settings: SETTINGS },
      saved,
      { ...state, recalled: [every] },
    );
    expect(tier.report().recalledTokens).toBe(SETTINGS.tokens);
    for (const its of [recall, tier]) await its.dispose();
  });

  it("knows nothing of what was demoted after it was saved or forked", async () => {
    const { runner, layout, parts } = await makeRunner(window({ tokens: 32 }), { sequences: 3 });
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 200);
    const fork = cache.fork();
    const forkRecall = await recall.fork(fork, folders.fresh());
    const ofFork = folders.fresh();
    const forkState = await forkRecall.save(ofFork);
    const ofSource = folders.fresh();
    const state = await recall.save(ofSource);
    const snapshot = cache.serialize();
    feed(cache, recall, runner, 200);
    await recall.settle();
    for (const [from, its] of [
      [ofSource, state],
      [ofFork, forkState],
    ] as const) {
      const restored = SequenceCache.restore(runner.pool, layout, snapshot);
      const tier = await Recall.restore(
        { ...parts, cache: restored, fingerprint: "test", folder: folders.fresh(), settings: SETTINGS },
        from,
        its,
      );
      expect(Math.max(...tier.spans(0).map(({ last }) => last))).toBeLessThan(200);
      const { ranges } = await tier.recall({ ids: [165, 166, 167] });
      expect(ranges[0]!.at(-1)![1]).toBeLessThan(200);
      await tier.dispose();
      restored.dispose();
    }
    await forkRecall.dispose();
    fork.dispose();
    await recall.dispose();
    cache.dispose();
  });

  it("forgets what no group holds any more, as well after a fork that some held it at", async () => {
    const policy: PolicyOfLane = ({ layer }) => window({ tokens: layer === 0 ? 32 : 96 });
    const { layout, runner, parts } = await makeRunner(policy, { sequences: 2 });
    expect(layout.groups.length).toBe(2);
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 200);
    const fork = cache.fork();
    const tier = await recall.fork(fork, folders.fresh());
    const both = [
      [cache, recall],
      [fork, tier],
    ] as const;
    const ids: (readonly (readonly [number, number])[])[] = [];
    for (const [its, below] of both) {
      feed(its, below, runner, 200);
      ids.push((await below.save(folders.fresh())).ids);
      await below.dispose();
      its.dispose();
    }
    expect(Math.min(...ids[0]!.map(([position]) => position))).toBeGreaterThanOrEqual(300);
    expect(ids[1]).toEqual(ids[0]);
  });

  it("prefers what was said last, and brings back the less the more of it is still there", async () => {
    const { runner, parts } = await makeRunner(window({ tokens: 64 }), { tokens: 64 });
    const { cache, recall } = await openRecall(parts, folders.fresh(), { tokens: 64 });
    const SUBJECT = 5000;
    /** The subject stands in every fifth block of 16 tokens; from the 40th block on in each. */
    const idOf = (position: number) => {
      const block = Math.floor(position / 16);
      return position % 16 === 8 && (block % 5 === 0 || block >= 40) ? SUBJECT : position;
    };
    feed(cache, recall, runner, 16 * 40, idOf);
    const { ranges, blocks } = await recall.recall({ ids: [SUBJECT] });
    expect(blocks).toBe(4);
    // Each with the one beside it: either may hold the rest.
    expect(ranges[0]!.at(-1)![1]).toBe(16 * 36 - 1);
    expect(ranges[0]![0]![0]).toBeGreaterThanOrEqual(16 * 29);
    feed(cache, recall, runner, 16, idOf);
    const less = await recall.recall({ ids: [SUBJECT] });
    expect(less.blocks).toBeGreaterThan(0);
    expect(less.blocks).toBeLessThan(4);
    feed(cache, recall, runner, 80, idOf);
    expect((await recall.recall({ ids: [SUBJECT] })).blocks).toBe(0);
    balanced(cache);
    await recall.dispose();
  });

  it("goes on without what a deleted folder held, and says so", async () => {
    const { runner, layout, parts } = await makeRunner(window({ tokens: 32 }), { sequences: 2 });
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 200);
    const saved = folders.fresh();
    const state = await recall.save(saved);
    const snapshot = cache.serialize();
    const { demoted } = cache.report();
    rmSync(saved, { recursive: true });
    const restored = SequenceCache.restore(runner.pool, layout, snapshot);
    const tier = await Recall.restore(
      { ...parts, cache: restored, fingerprint: "test", folder: folders.fresh(), settings: SETTINGS },
      saved,
      state,
    );
    expect(tier.report().problem?.code).toBe("FILE_NOT_FOUND");
    expect(restored.report()).toMatchObject({ demoted: 0, dropped: demoted });
    balanced(restored);
    expect(await tier.recall({ ids: [5] })).toMatchObject({ tokens: 0, blocks: 0, lost: 0 });
    feed(restored, tier, runner, 60);
    expect((await tier.recall({ ids: [190] })).tokens).toBeGreaterThan(0);
    await tier.dispose();

    // In the middle of a stream.
    const events: CacheEvent[] = [];
    cache.onChange((event) => events.push(event));
    rmSync(recall.folder, { recursive: true });
    const { tokens, lost } = await recall.recall({ ids: [12, 13, 14] });
    // Its own block, and the one after that might hold the rest of what is asked about.
    expect([tokens, lost]).toEqual([0, 2]);
    expect(recall.report().problem?.code).toBe("FILE_NOT_FOUND");
    const lostOf = (first: number) => ({ kind: "drop", group: 0, count: 16, ranges: [[first, first + 15]] });
    expect(events.slice(0, 2)).toEqual(expect.arrayContaining([lostOf(0), lostOf(16)]));
    expect(events.slice(2)).toEqual([{ kind: "recall", group: 0, count: 0, ranges: [] }]);
    balanced(cache);
    feed(cache, recall, runner, 60);
    balanced(cache);
    await recall.dispose();
  });

  it("never passes its budgets, and tells of every token that is pushed out", async () => {
    const { runner, parts } = await makeRunner(({ head }) =>
      head === 0 ? window({ tokens: 32 }) : sinks({ window: 40 }),
    );
    const settings = { diskBytes: 150_000, summaryBytes: 6000, queueBytes: 5000 };
    const { cache, recall } = await openRecall(parts, folders.fresh(), settings);
    const where = cache.layout.groups.map(() => new Map<number, string>());
    cache.onChange((event) => {
      if (!("ranges" in event) || event.kind === "recall" || event.kind === "merge") return;
      let count = 0;
      for (const [first, last] of event.ranges) {
        for (const position of upFrom(first, last - first + 1)) {
          count++;
          const before = where[event.group]!.get(position);
          expect(before).toBe(event.kind === "drop" ? "demote" : undefined);
          where[event.group]!.set(position, event.kind);
        }
      }
      expect(count).toBe(event.count);
    });
    // A rare token in each block, common ones around it.
    const idOf = (position: number) => (position % 16 === 5 ? 1000 + position : position % 7);
    const random = new TestRandom(4);
    for (let round = 0; round < 120; round++) {
      feed(cache, recall, runner, 1 + random.below(60), idOf);
      balanced(cache);
      const report = recall.report();
      expect(report.diskBytes).toBeLessThanOrEqual(settings.diskBytes);
      expect(report.summaryBytes).toBeLessThanOrEqual(settings.summaryBytes);
      expect(report.queuedBytes).toBeLessThanOrEqual(settings.queueBytes);
      for (const [g, { demoted, dropped }] of cache.report().groups.entries()) {
        const kinds = [...where[g]!.values()];
        expect(kinds.filter((kind) => kind === "demote")).toHaveLength(demoted);
        expect(kinds.filter((kind) => kind === "drop")).toHaveLength(dropped);
      }
      if (round % 10 !== 9) continue;
      // What is still there is found, even where an entry stands for many blocks.
      const kept = [...where[0]!].filter(([, kind]) => kind === "demote").map(([position]) => position);
      const rare = kept.filter((position) => position % 16 === 5);
      const wanted = rare[random.below(rare.length)]!;
      const { ranges, lost } = await recall.recall({ ids: [1, 2, idOf(wanted), 5] });
      expect(lost).toBe(0);
      // The block that the question completed may have pushed it out.
      const found = ranges[0]!.some(([first, last]) => first <= wanted && wanted <= last);
      expect(found).toBe(where[0]!.get(wanted) === "demote");
    }
    expect(cache.report().dropped).toBeGreaterThan(1000);
    await recall.dispose();
  });

  it("keeps count of what was merged into demoted tokens, recalled or lost", async () => {
    // Some of the newer ones take in their neighbours, and go when they are the oldest.
    const policy: CachePolicy = {
      id: "mergeAndDrop",
      merges: true,
      capacity: ({ tokens }) => Math.min(tokens, 64),
      plan(view) {
        if (view.length + view.incoming <= 64) return [];
        const slots = [...view.oldest()];
        const weights = new Float32Array(2 * view.lanes.length).fill(0.5);
        const merges = [32, 36, 40].map(
          (i) => ({ kind: "merge", into: slots[i]!, slots: [slots[i + 1]!], weights }) as const,
        );
        return [...merges, { kind: "drop", slots: slots.slice(0, 24) }];
      },
    };
    const { runner, layout, parts } = await makeRunner(policy);
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 300);
    balanced(cache);
    const before = cache.report();
    expect(before.merged).toBeGreaterThan(10);
    expect(before.demoted).toBeGreaterThan(50);
    await recall.recall({ ids: [32, 36, 40] });
    const view = cache.views[0]!.next!;
    const counts = [...view.logCounts!.float32(0, view.numPages * view.pageTokens)].map(Math.exp);
    expect(counts.filter((count) => count > 1.5).length).toBeGreaterThan(1);
    expect(counts.every((count) => [1, 2].some((want) => Math.abs(count - want) < 1e-6))).toBe(true);
    expect(layout.groups).toHaveLength(1);
    await recall.settle();
    rmSync(recall.folder, { recursive: true });
    expect((await recall.recall({ ids: [32, 36, 40] })).lost).toBeGreaterThan(0);
    balanced(cache);
    expect(cache.report().merged).toBeLessThan(before.merged);
    await recall.dispose();
  });

  it("does not demote what a layer's own window hides", async () => {
    const { runner, parts } = await makeRunner(window({ tokens: 60 }), { model: "gemma3" });
    const { cache, recall } = await openRecall(parts, folders.fresh());
    feed(cache, recall, runner, 200);
    const { groups } = cache.report();
    expect(groups.map(({ demoted }) => demoted > 0).sort()).toEqual([false, true]);
    balanced(cache);
    await recall.dispose();
  });

  it("refuses settings that it cannot hold to", async () => {
    const { parts } = await makeRunner(window({ tokens: 60 }));
    const codeOf = (settings: Partial<typeof SETTINGS>, folder = folders.fresh()) =>
      openRecall(parts, folder, settings).then(
        () => "none",
        (error: { code: string }) => error.code,
      );
    expect(await codeOf({ tokens: 15 })).toBe("INVALID_ARGUMENT");
    expect(await codeOf({ diskBytes: 1000 })).toBe("OUT_OF_BUDGET");
    expect(await codeOf({ summaryBytes: 100 })).toBe("OUT_OF_BUDGET");
    expect(await codeOf({}, join("/dev/null", "tier"))).toBe("WRITE_FAILED");
  });
});
