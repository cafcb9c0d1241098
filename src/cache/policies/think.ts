/**
 * Takes those elements out of old keys that queries hardly look at: "ThinK: Thinner Key Cache by Query-Driven Pruning"
 * (arXiv 2407.21018). The bytes are saved, not zeroed: thin tokens lie in rows of their own, whose pages hold more of
 * them (`CacheGroup.thin`), and attention gathers of each query what meets a thin key once for all of these.
 *
 * An element of a key is worth the mean of its squares over the keys that are held, times the mean of its squares over
 * the last queries, of all query heads of the lane: what it adds to the scores. The paper chooses once, at the end of
 * the prompt. A stream has no such end, so here:
 *
 * - Tokens become thin in blocks, half of `recent` at a time, where the number of tokens seen is a multiple of a block:
 *   what a query meets depends on its place in the stream, not on how this was cut into steps.
 * - A lane's elements are chosen when its first tokens become thin, and hold for all that follow, as long as any thin
 *   token is left. Which elements are loud is the head's doing more than the text's: its projections, and the
 *   frequencies of its rotary embedding. One choice is what lets thin tokens change rows, so that what `of` lets go of
 *   anywhere gives whole pages back; and the query is gathered once for each lane, not once for each block.
 *
 * Sinks stay whole: they are few, and have pages of their own. Policies that rotate stored keys anew cannot be wrapped,
 * since a rotation mixes elements that stay with others that went; segments that are moved by rotating queries can.
 */
import { MillraceError } from "../../errors.js";
import type { CachePolicy, LaneView, Plan } from "../contract.js";
import { numberWithin, wholeNumber } from "./options.js";

export interface ThinkOptions {
  /** Share of a key's elements that stay, above 0 to 1. Default 0.6. */
  readonly keep?: number;
  /** Newest tokens whose keys stay whole; from that to half as many again do. Default 128. */
  readonly recent?: number;
  /** Last queries that the choice takes into account, at most half of `recent`. Default 32, or that half. */
  readonly queries?: number;
}

/**
 * Wraps `of`, which alone decides what stays and what goes. Throws INVALID_ARGUMENT for options out of range, and where
 * `of` puts tokens at contiguous positions or thins keys itself.
 */
export function think(options: ThinkOptions & { readonly of: CachePolicy }): CachePolicy {
  const { of, keep = 0.6, recent = 128 } = options;
  numberWithin("A think policy's keep", keep, 0, 1);
  if (keep === 0) numberWithin("A think policy's keep", keep, Number.MIN_VALUE, 1);
  wholeNumber("A think policy's recent", recent, 2);
  const block = Math.floor(recent / 2);
  const { queries = Math.min(32, block) } = options;
  wholeNumber("A think policy's queries", queries, 1, block);
  if (of.settles !== undefined || of.thins) throw unfit(of);
  const { keepsAll: _, mass, ...inner } = of;
  const width = (headWidth: number) => Math.max(1, Math.round(keep * headWidth));
  return {
    ...inner,
    ...(mass ? { mass: withEnds(mass, of) } : {}),
    id: `think(keep=${keep}, recent=${recent}, queries=${queries}, ${of.id})`,
    thins: { width, dense: recent + block, recent, queries, block },
    maxIncoming: (seen) =>
      Math.min(block - (seen % block), of.maxIncoming?.(seen) ?? Number.POSITIVE_INFINITY),
    plan(view) {
      const steps = of.plan(view);
      if (view.seen % block !== 0) return steps;
      const slots = oldOf(view, steps, recent);
      if (slots.length === 0) return steps;
      const sums = view.queries();
      return [...steps, { kind: "thin", slots, elements: sums && loudest(view, sums, width) }];
    },
  };
}

/** Steps end where tokens become thin, too; which queries give mass is still for `of`. */
const withEnds = (mass: NonNullable<CachePolicy["mass"]>, of: CachePolicy): typeof mass => ({
  ...mass,
  left: (seen) => mass.left?.(seen) ?? of.maxIncoming?.(seen) ?? Number.POSITIVE_INFINITY,
});

/** Tokens of the stream whose keys are whole, but for the newest `recent`, as `steps` will leave them. */
function oldOf(view: LaneView, steps: Plan, recent: number): number[] {
  const gone = new Set<number>();
  for (const step of steps) if ("slots" in step) for (const slot of Array.from(step.slots)) gone.add(slot);
  const old: number[] = [];
  let left = recent;
  for (const slot of view.newest()) {
    if (view.segmentOf(slot) !== "stream") continue;
    if (view.isThin(slot)) break;
    if (gone.has(slot)) continue;
    if (left-- <= 0) old.push(slot);
  }
  return old.reverse();
}

/** Of each lane, the elements that add most to the scores, ascending; of equals the first. */
function loudest(view: LaneView, sums: Float32Array, widthOf: (headWidth: number) => number): Int32Array {
  const lanes = view.lanes.length;
  const headWidth = sums.length / lanes;
  const width = widthOf(headWidth);
  const slots = [...view.oldest()];
  const keys = view.keys(slots);
  const chosen = new Int32Array(lanes * width);
  for (let lane = 0; lane < lanes; lane++) {
    const worth = new Float64Array(headWidth);
    for (let at = lane * slots.length * headWidth; at < (lane + 1) * slots.length * headWidth; at++)
      worth[at % headWidth]! += keys[at]! ** 2;
    for (let i = 0; i < headWidth; i++) worth[i]! *= sums[lane * headWidth + i]!;
    const order = [...worth.keys()].sort((a, b) => worth[b]! - worth[a]! || a - b);
    chosen.set(Int32Array.from(order.slice(0, width)).sort(), lane * width);
  }
  return chosen;
}

function unfit(of: CachePolicy): MillraceError {
  return new MillraceError(
    "INVALID_ARGUMENT",
    `A think policy cannot wrap ${of.id}: ${of.thins ? "that thins keys itself" : "that rotates stored keys anew"}. ` +
      `Wrap one at original positions that keeps keys whole.`,
    { policy: of.id },
  );
}
