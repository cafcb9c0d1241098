import { blockOf, inBlocks } from "../blocks.js";
import type { CachePolicy, LaneView, Plan, PlanStep, Scope } from "../contract.js";
import { PLACEMENTS, type Placement, placed } from "./contiguous.js";
import { checkScope, numberWithin, oneOf, wholeNumber } from "./options.js";

export interface KvMergerOptions {
  /** Most tokens of a lane, merged ones counted once. */
  readonly tokens: number;
  /** Newest tokens, which are never merged. Default: a quarter of `tokens`. */
  readonly recent?: number;
  /** Tokens that received the most attention per query, which are not merged either. Default: a quarter of `tokens`. */
  readonly heavy?: number;
  /** Least cosine of neighbouring keys that are merged; where too few are so alike, tokens go. Default -1. */
  readonly similarity?: number;
  /** Which lanes decide together. Default "head": each alone. */
  readonly per?: Scope;
  /** Where kept tokens count as standing: where they stood, or one after another, for streams without end. Default "original". */
  readonly positions?: Placement;
}

/**
 * Merges neighbouring tokens whose keys are most alike, instead of letting any go: "Model Tells You Where to Merge:
 * Adaptive KV Cache Merging for LLMs on Long-Context Tasks" (arXiv 2407.08454). Of a run of such tokens the one that
 * received the most attention is the pivot; the others join it, weighted by a Gaussian of their distance to it. What
 * they become counts as as many tokens as it is made of, in the softmax too. The paper merges once, after the
 * prompt; here as many pairs as make room for a block, whenever one is needed (`inBlocks`).
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function kvmerger(options: KvMergerOptions): CachePolicy {
  const { tokens, similarity = -1, per = "head", positions = "original" } = options;
  wholeNumber("A kvmerger policy's tokens", tokens, 8);
  const { recent = blockOf(tokens), heavy = blockOf(tokens) } = options;
  wholeNumber("A kvmerger policy's recent", recent, 1, tokens - 4);
  wholeNumber("A kvmerger policy's heavy", heavy, 0, tokens - 4 - recent);
  numberWithin("A kvmerger policy's similarity", similarity, -1, 2);
  checkScope("A kvmerger policy's per", per);
  oneOf("A kvmerger policy's positions", positions, PLACEMENTS);
  const block = blockOf(tokens - recent - heavy);
  const bounded = inBlocks(tokens, merge, block);
  const merging: CachePolicy = {
    id: `kvmerger(tokens=${tokens}, recent=${recent}, heavy=${heavy}, similarity=${similarity}, per=${per})`,
    per,
    mass: {},
    merges: true,
    ...bounded,
  };
  return placed(merging, positions, block);

  function merge(view: LaneView, excess: number): Plan {
    const mass = view.mass();
    const ordered = [...view.oldest()];
    for (const slot of ordered) mass[slot]! /= view.nextPosition - view.positions[slot]!;
    const older = ordered.slice(0, Math.max(0, ordered.length - recent));
    const protectedSlots = new Set([...older].sort((a, b) => mass[b]! - mass[a]!).slice(0, heavy));
    const free = older.filter((slot) => !protectedSlots.has(slot));
    const links = alike(view, older, protectedSlots)
      .filter((link) => link.cosine >= similarity)
      .sort((a, b) => b.cosine - a.cosine)
      .slice(0, excess);
    const steps: PlanStep[] = [];
    const merged = new Set<number>();
    for (const run of runsOf(links, older)) {
      for (const slot of run) merged.add(slot);
      steps.push(mergeRun(view, run, mass));
    }
    const missing = excess - links.length;
    if (missing > 0) {
      const rest = free.filter((slot) => !merged.has(slot)).sort((a, b) => mass[a]! - mass[b]!);
      // Where all the rest are protected, the oldest of these go.
      const others = older.filter((slot) => protectedSlots.has(slot));
      steps.push({ kind: "drop", slots: [...rest, ...others].slice(0, missing) });
    }
    return steps;
  }
}

interface Link {
  /** Index of the older token among the ordered. */
  readonly at: number;
  readonly cosine: number;
}

/** Pairs of neighbours that may merge, with the cosine of their keys, the mean over the lanes. */
function alike(view: LaneView, ordered: readonly number[], kept: ReadonlySet<number>): Link[] {
  if (ordered.length === 0) return [];
  const keys = view.keys(ordered);
  const lanes = view.lanes.length;
  const width = keys.length / (lanes * ordered.length);
  const links: Link[] = [];
  for (let at = 0; at + 1 < ordered.length; at++) {
    if (kept.has(ordered[at]!) || kept.has(ordered[at + 1]!)) continue;
    if (view.segmentOf(ordered[at]!) !== view.segmentOf(ordered[at + 1]!)) continue;
    let cosine = 0;
    for (let lane = 0; lane < lanes; lane++) {
      const from = (lane * ordered.length + at) * width;
      const [a, b] = [keys.subarray(from, from + width), keys.subarray(from + width, from + 2 * width)];
      cosine += dot(a, b) / Math.max(1e-30, Math.sqrt(dot(a, a) * dot(b, b))) / lanes;
    }
    links.push({ at, cosine });
  }
  return links;
}

/** Slots of tokens that are linked one to the next. */
function* runsOf(links: readonly Link[], ordered: readonly number[]): Generator<number[]> {
  const starts = links.map(({ at }) => at).sort((a, b) => a - b);
  for (let i = 0; i < starts.length; ) {
    const run = [ordered[starts[i]!]!];
    let at = starts[i]!;
    for (; starts[i] === at; i++, at++) run.push(ordered[at + 1]!);
    yield run;
  }
}

function mergeRun(view: LaneView, run: readonly number[], mass: Float32Array): PlanStep {
  const into = run.reduce((best, slot) => (mass[slot]! > mass[best]! ? slot : best));
  const slots = run.filter((slot) => slot !== into);
  const all = [into, ...slots];
  const keys = view.keys(all);
  const lanes = view.lanes.length;
  const width = keys.length / (lanes * all.length);
  const weights = new Float32Array(lanes * all.length);
  for (let lane = 0; lane < lanes; lane++) {
    const key = (i: number) =>
      keys.subarray((lane * all.length + i) * width, (lane * all.length + i + 1) * width);
    const distances = all.map((_, i) => squaredDistance(key(i), key(0)));
    // The width of the Gaussian is that of the run itself.
    const spread = distances.reduce((sum, distance) => sum + distance, 0) / slots.length;
    const shares = all.map((slot, i) => {
      const near = spread > 0 ? Math.exp(-distances[i]! / (2 * spread)) : 1;
      return near * view.countOf(slot);
    });
    const total = shares.reduce((sum, share) => sum + share, 0);
    weights.set(
      shares.map((share) => share / total),
      lane * all.length,
    );
  }
  return { kind: "merge", into, slots, weights };
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function squaredDistance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return sum;
}
