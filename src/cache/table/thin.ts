import { MillraceError } from "../../errors.js";
import type { PlanStep } from "../contract.js";
import { NONE } from "./order.js";
import type { TableRows } from "./rows.js";
import { STREAM, THIN } from "./segment-rows.js";

export type ThinStep = Extract<PlanStep, { kind: "thin" }>;

/** Throws INTERNAL for a step that cannot be carried out. `chosen`: elements were chosen before, by tokens that are thin. */
export function checkThin(rows: TableRows, { slots, elements }: ThinStep, chosen: boolean): void {
  const { lanes, thin, policy } = rows.group;
  const given = elements?.length ?? 0;
  const wanted = chosen ? 0 : lanes.length * (thin?.keyWidth ?? 0);
  const isWhole = (slot: number) => rows.positions[slot] !== NONE && rows.segmentAt(slot) === STREAM;
  const all = Array.from(slots);
  if (thin && given === wanted && all.every(isWhole) && new Set(all).size === all.length) return;
  throw new MillraceError(
    "INTERNAL",
    `Policy ${policy.id} planned to thin ${slots.length} keys to ${given} elements in all; it must declare ` +
      `"thins", name tokens of the stream that are not thin, and choose elements where none is thin.`,
    { slots: slots.length, elements: given },
  );
}

/**
 * Stores the keys of the tokens at these positions in part, in rows of their own. `elements`: those that stay, where
 * they have not been chosen before.
 */
export function thinTokens(
  rows: TableRows,
  positions: ReadonlySet<number>,
  elements: Int32Array | null,
): void {
  if (elements) rows.view.thin!.elements().set(elements);
  for (const slot of [...rows.order.fromOldest()]) {
    if (!positions.has(rows.positions[slot]!)) continue;
    const row = rows.writableRow(THIN);
    rows.publish();
    rows.move(slot, row);
  }
  rows.removeEmptied();
}
