import { MillraceError } from "../../errors.js";
import { codecs } from "../codecs/index.js";
import type { PlanStep } from "../contract.js";
import type { CacheGroup } from "../layout.js";
import { NONE } from "./order.js";
import { load, type Place, placeOf } from "./place.js";
import type { TableRows } from "./rows.js";

export type MergeStep = Extract<PlanStep, { kind: "merge" }>;

/** Throws INTERNAL for a step that cannot be carried out; its own tokens are taken out already. */
export function checkMerge(rows: TableRows, { into, slots, weights }: MergeStep): void {
  const holds = rows.rowOf(into) < rows.numRows && rows.positions[into] !== NONE;
  const wanted = rows.lanes * (1 + slots.length);
  if (rows.counts && holds && weights.length === wanted) return;
  throw new MillraceError(
    "INTERNAL",
    `Policy ${rows.group.policy.id} planned to merge ${slots.length} tokens into slot ${into} by ${weights.length} ` +
      `weights; it must declare "merges", the slot hold a token that stays, and the weights be ${wanted}.`,
    { into, slots: slots.length, weights: weights.length },
  );
}

/** Makes a token the sum of itself and those in `slots`, which were taken out: their bytes still lie there. */
export function mergeTokens(rows: TableRows, { into, slots, weights }: MergeStep): void {
  const { view } = rows;
  rows.pages.unshare(rows.rowOf(into));
  const all = [into, ...Array.from(slots)];
  for (let lane = 0; lane < rows.lanes; lane++) {
    const part = weights.subarray(lane * all.length, (lane + 1) * all.length);
    const places = all.map((slot) => placeOf(rows, slot, lane));
    mergeInto(rows.group, places, part);
  }
  const counts = rows.counts!;
  const count = all.reduce((sum, slot) => sum + counts[slot]!, 0);
  counts[into] = count;
  view.counted!.values()[into] = Math.log(count);
  view.received?.gather(slots, into);
}

/** Replaces the key and value at the first of `places` by the sums of all, each times its weight. */
function mergeInto(group: CacheGroup, places: readonly Place[], weights: ArrayLike<number>): void {
  const key = new Float32Array(group.headWidth);
  const value = new Float32Array(group.headWidth);
  const keys = new Float64Array(group.headWidth);
  const values = new Float64Array(group.headWidth);
  for (const [p, place] of places.entries()) {
    load(group, place, key, value);
    for (let i = 0; i < group.headWidth; i++) {
      keys[i]! += weights[p]! * key[i]!;
      values[i]! += weights[p]! * value[i]!;
    }
  }
  value.set(values);
  const { page, slot, elements } = places[0]!;
  const stored = Float32Array.from(elements ?? keys, (each, i) => keys[elements ? each : i]!);
  codecs[group.codec].store(page, slot, stored, value);
}
