/**
 * The one conformance suite of cache policies: what every policy must hold, whatever it keeps. Run for each policy
 * with each codec on a tiny model and any backend that computes.
 */
import { beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backends/contract.js";
import type { CodecName } from "../../src/cache/codecs/contract.js";
import type { CachePolicy, Lane, LaneView, Plan, PolicyOfLane } from "../../src/cache/contract.js";
import { type CacheLayout, pagesFor, planLayout } from "../../src/cache/layout.js";
import { full } from "../../src/cache/policies/full.js";
import { h2o } from "../../src/cache/policies/h2o.js";
import { type CacheEvent, SequenceCache } from "../../src/cache/sequence.js";
import { difference, type MergedTokens, TinyHost } from "./cache-runner.js";
import { TestRandom } from "./random.js";
import { type TinyName, tinyPrompt } from "./tiny-models.js";

export interface PolicyCase {
  readonly name: string;
  /** The policy that holds at most `budget` tokens a lane; one without a budget holds all. */
  create(budget: number): CachePolicy | PolicyOfLane;
}

const STEP = 16;
const BUDGET = 28;
const LENGTH = 72;
const PAGE_TOKENS = 16;

/**
 * Sums in another order differ by this much at most; logits of the tiny models are tens. Where sums are taken in f32,
 * a stored key or value may also be rounded the other way.
 */
const SAME = 2e-4;
const SAME_ROUNDED: Record<CodecName, number> = { f32: SAME, f16: 5e-3, int8: 0.2 };

export function describePolicy(
  policy: PolicyCase,
  models: readonly TinyName[],
  codecs: readonly CodecName[],
  backend: () => Backend,
): void {
  describe.each(models)(`${policy.name} on %s`, (model) => {
    let host: TinyHost;
    beforeAll(async () => {
      host = await TinyHost.open(model, backend());
    });
    describe.each(codecs)("%s", (codec) => conformance(policy, codec, () => host));
  });
}

function conformance(policy: PolicyCase, codec: CodecName, host: () => TinyHost): void {
  const tokens = tinyPrompt(LENGTH);
  const layoutFor = (chosen: CachePolicy | PolicyOfLane): CacheLayout =>
    planLayout({ kv: host().tape.kv, policy: chosen, codec, step: STEP, pageTokens: PAGE_TOKENS });
  const same = () => (host().backend.name === "reference" ? SAME : SAME_ROUNDED[codec]);
  /** A runner with exactly the pages that admission would count for `sequences` of them. */
  const runnerFor = (layout: CacheLayout, sequences = 1) =>
    host().runner(layout, sequences * pagesFor(layout, LENGTH));

  it("gives what the full cache gives while the budget holds all", async () => {
    const own = await runnerFor(layoutFor(policy.create(LENGTH)));
    const all = await runnerFor(layoutFor(full()));
    const short = tokens.slice(0, 40);
    const got = await own.run(own.open(), short);
    expect(difference(got, await all.run(all.open(), short))).toBeLessThan(same());
  });

  it("never passes its budget, and accounts for every token at every step", async () => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout);
    const cache = runner.open();
    let seen = 0;
    await runner.run(cache, tokens, {
      chunk: 7,
      afterStep: (part) => {
        seen += part.length;
        const report = cache.report();
        expect(report.kept + report.merged + report.demoted + report.dropped).toBe(report.seen);
        for (const [g, group] of report.groups.entries()) {
          expect(group.seen).toBe(seen);
          const { kept, merged, demoted, dropped, expired } = group;
          expect(kept + merged + demoted + dropped + expired).toBe(seen);
          const demand = { tokens: LENGTH, step: STEP };
          expect(group.kept).toBeLessThanOrEqual(layout.groups[g]!.policy.capacity(demand));
        }
        expect(runner.pool.usage().peak).toBeLessThanOrEqual(pagesFor(layout, LENGTH));
      },
    });
    expect(seen).toBe(LENGTH);
  });

  it("attends as a dense cache in which exactly the dropped tokens are masked, merged and moved ones made anew", async (test) => {
    const merges: MergedHere[] = [];
    const layout = layoutFor(recordMerges(policy.create(BUDGET), merges));
    const runner = await runnerFor(layout);
    const oracle = await host().oracle(layout, LENGTH);
    const cache = runner.open();
    const hidden = layout.groups.map(() => new Set<number>());
    const offsets = layout.groups.map(() => 0);
    const standing = layout.groups.map(() => new Map<number, number>());
    cache.onChange((event: CacheEvent) => {
      if (event.kind === "settle") {
        const { first, count } = event;
        const at = standing[event.group]!;
        at.clear();
        for (let p = first + count - 1, stands = p; p >= 0; p--) {
          if (!hidden[event.group]!.has(p)) at.set(p, stands--);
        }
      }
      if (event.kind === "move") offsets[event.group] = event.segment === "sinks" ? event.offset : 0;
      if (event.kind === "thin") {
        const positions = event.ranges.flatMap(([from, to]) =>
          Array.from({ length: to - from + 1 }, (_, i) => from + i),
        );
        thinned.push({ group: event.group, positions });
      }
      // Expired tokens stay in the oracle: the layer's own window must hide them.
      if (event.kind !== "drop" && event.kind !== "merge") return;
      for (const [from, to] of event.ranges) for (let p = from; p <= to; p++) hidden[event.group]!.add(p);
    });
    const thin = new Set<string>();
    const thinned: { readonly group: number; readonly positions: readonly number[] }[] = [];
    const want: Float32Array[] = [];
    const mostUnseen = layout.groups.map(() => 0);
    const got = await runner.run(cache, tokens, {
      chunk: 5,
      afterStep: async (part) => {
        for (const { lane, ...merged } of merges.splice(0)) {
          const isHere = (each: Lane) => each.layer === lane.layer && each.head === lane.head;
          const group = layout.groups.findIndex(({ lanes }) => lanes.some(isHere));
          oracle.merge(group, merged);
          // What becomes part of a thin token becomes thin.
          if (thin.has(`${group} ${merged.into}`)) thinned.push({ group, positions: [merged.into] });
        }
        for (const { group, positions } of thinned.splice(0)) {
          const { region, elementsAt, width } = cache.views[group]!.thin!;
          const elements = region.int32(elementsAt, layout.groups[group]!.lanes.length * width);
          oracle.thin(group, positions, elements);
          for (const position of positions) thin.add(`${group} ${position}`);
        }
        const offset = (group: number, position: number) => {
          if (layout.groups[group]!.policy.settles)
            return (standing[group]!.get(position) ?? position) - position;
          return position < (layout.groups[group]!.policy.sinks ?? 0) ? offsets[group]! : 0;
        };
        // Where queries choose, each attends to other tokens.
        const chooses = layout.groups.some(({ policy }) => policy.chooses);
        for (const [i, tokens] of (chooses ? part.map((token) => [token]) : [part]).entries()) {
          const unseen = layout.groups.map((_, group) => unseenBy(cache, group, i));
          for (const [g, positions] of unseen.entries())
            mostUnseen[g] = Math.max(mostUnseen[g]!, positions.size);
          const isHidden = (group: number, position: number) =>
            hidden[group]!.has(position) || unseen[group]!.has(position);
          want.push(...(await oracle.run(tokens, { hidden: isHidden, offset })));
        }
      },
    });
    for (const [g, { policy }] of layout.groups.entries()) {
      if (policy.chooses && policy.chooses.tokens <= BUDGET)
        expect(mostUnseen[g]).toBeGreaterThan(LENGTH / 4);
    }
    const moved = offsets.some((offset) => offset !== 0) || standing.some(({ size }) => size > 0);
    if (moved && codec !== "f32") {
      return test.skip(`keys rotated anew would be rounded to ${codec} a second time`);
    }
    if (codec === "int8" && thin.size > 0 && layout.groups.some(({ policy: { merges } }) => merges)) {
      return test.skip("what is merged into a thin key is rounded in steps of what is stored of it");
    }
    expect(difference(got, want)).toBeLessThan(same());
  });

  it("gives the same however the tokens are cut into steps", async () => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout, 2);
    const whole = await runner.run(runner.open(), tokens.slice(0, 60));
    expect(
      difference(await runner.run(runner.open(), tokens.slice(0, 60), { chunk: 3 }), whole),
    ).toBeLessThan(same());
  });

  it("does not depend on which slots hold the tokens", async () => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout, 2);
    const cache = runner.open();
    await runner.run(cache, tokens.slice(0, 45), { chunk: 6 });
    const shuffled = await runner.runShuffled(cache, tokens[45]!, new TestRandom(1));
    expect(difference(shuffled, await runner.run(cache, [tokens[45]!]))).toBeLessThan(same());
  });

  it("goes on after save and restore exactly as without", async () => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout, 2);
    const cache = runner.open();
    await runner.run(cache, tokens.slice(0, 45), { chunk: 9 });
    const restored = SequenceCache.restore(runner.pool, layout, cache.serialize());
    const rest = tokens.slice(45);
    const want = await runner.run(cache, rest, { chunk: 3 });
    expect(difference(await runner.run(restored, rest, { chunk: 3 }), want)).toBe(0);
    expect(restored.report()).toEqual(cache.report());
  });

  it("forks into two sequences that do as two alone", async () => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout, 3);
    const prefix = tokens.slice(0, 37);
    const ends = [tokens.slice(37, 57), tokens.slice(40, 60)];
    const one = runner.open();
    await runner.run(one, prefix, { chunk: 11 });
    const caches = [one, one.fork()];
    const got: Float32Array[][] = [[], []];
    for (let at = 0; at < 20; at++) {
      for (const [i, cache] of caches.entries()) got[i]!.push(...(await runner.run(cache, [ends[i]![at]!])));
    }
    for (const cache of caches) cache.dispose();
    for (const [i, end] of ends.entries()) {
      const alone = runner.open();
      await runner.run(alone, prefix, { chunk: 11 });
      expect(difference(got[i]!, await runner.run(alone, end, { chunk: 1 }))).toBe(0);
      alone.dispose();
    }
    expect(runner.pool.usage()).toMatchObject({ used: 0, shared: 0 });
  });

  it("takes no notice of tokens that were run and rewound at once", async (test) => {
    const layout = layoutFor(policy.create(BUDGET));
    const runner = await runnerFor(layout, 2);
    const [cache, plain] = [runner.open(), runner.open()];
    await runner.run(cache, tokens.slice(0, 26), { chunk: 8 });
    await runner.run(plain, tokens.slice(0, 26), { chunk: 8 });
    const at = cache.nextPosition;
    const forgets = cache.maxIncoming() > 1;
    if (forgets) await runner.run(cache, tokens.slice(60, 62), { chunk: 2 });
    const hasMass = layout.groups.some((group) => group.policy.mass);
    // As long as a choice of elements is to come, it comes from all queries.
    const measures = cache.views.some((view) => view.queries !== null);
    const hasChosen = cache.views.some(({ choice }) => choice && choice.chooser.int32(0, 1)[0]! >= at);
    expect(cache.rewindable(at)).toBe(
      forgets && (hasMass || measures || hasChosen) ? "approximate" : "exact",
    );
    cache.rewind(at);
    expect(cache.report()).toMatchObject({ seen: 26 });
    if (hasMass) return test.skip("the mass that forgotten queries gave stays");
    if (hasChosen) return test.skip("what was chosen before forgotten queries did is not known any more");
    const got = await runner.run(cache, tokens.slice(26, 32));
    expect(difference(got, await runner.run(plain, tokens.slice(26, 32)))).toBeLessThan(same());
  });
}

/** Positions to which token `token` of the step just run did not attend, though they are held. */
function unseenBy(cache: SequenceCache, group: number, token: number): Set<number> {
  const { region, choice, positionsAt, numPages, pageTokens } = cache.views[group]!;
  const positions = region.int32(positionsAt, numPages * pageTokens);
  const shown = choice?.shown.int32(0, positions.length);
  return new Set([...positions].filter((p, slot) => p >= 0 && shown && ((shown[slot]! >> token) & 1) === 0));
}

interface MergedHere extends MergedTokens {
  /** One of the group. */
  readonly lane: Lane;
}

/** The same policy, which notes the merges of every plan, by position. */
function recordMerges(policy: CachePolicy | PolicyOfLane, merges: MergedHere[]): CachePolicy | PolicyOfLane {
  if (typeof policy !== "function") return recorded(policy, merges);
  return (lane, numLayers) => recorded(policy(lane, numLayers), merges);
}

function recorded(policy: CachePolicy, merges: MergedHere[]): CachePolicy {
  const plan = (view: LaneView): Plan => {
    const steps = policy.plan(view);
    for (const step of steps) {
      if (step.kind !== "merge") continue;
      merges.push({
        lane: view.lanes[0]!,
        into: view.positions[step.into]!,
        positions: Array.from(step.slots, (slot) => view.positions[slot]!),
        weights: step.weights,
      });
    }
    return steps;
  };
  return { ...policy, plan };
}

/** What a policy may take the mass that attention gives it for. */
export function describeMass(backend: () => Backend): void {
  describe("attention mass", () => {
    it("is, per lane, one for every query head that asked", async () => {
      const host = await TinyHost.open("llama", backend());
      const layout = planLayout({
        kv: host.tape.kv,
        policy: h2o({ heavy: 50, recent: 50 }),
        codec: "f32",
        step: 16,
        pageTokens: 16,
      });
      const runner = await host.runner(layout, pagesFor(layout, 100));
      const cache = runner.open();
      const attention = host.tape.ops.find((op) => op.op === "attention")!;
      const perLane = attention.numHeads / host.tape.kv[0]!.numKvHeads;
      for (const upTo of [10, 37, 60]) {
        await runner.run(cache, tinyPrompt(60).slice(cache.length, upTo), { chunk: 7 });
        const [view] = cache.views;
        const slots = view!.numPages * view!.pageTokens;
        const positions = view!.region.int32(view!.positionsAt, slots);
        for (let lane = 0; lane < view!.lanes; lane++) {
          const mass = view!.mass!.region.float32(4 * lane * slots, slots);
          expect(mass.reduce((sum, x) => sum + x, 0)).toBeCloseTo(perLane * upTo, 3);
          expect(mass.every((x, slot) => (positions[slot] === -1 ? x === 0 : x > 0))).toBe(true);
        }
      }
    });
  });
}
