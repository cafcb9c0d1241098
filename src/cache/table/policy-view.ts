import { MillraceError } from "../../errors.js";
import type { Lane, LaneView, Segment } from "../contract.js";
import { keysIn } from "./place.js";
import type { TableRows } from "./rows.js";
import { SINKS, STREAM, THIN } from "./segment-rows.js";

/** What stands around a table when its policy plans a step; as in LaneView. */
export type StepOutlook = Pick<LaneView, "seen" | "incoming" | "nextPosition" | "budget">;

/** The tokens of a table as its policy sees them. Valid until the table changes. */
export class PolicyView implements LaneView {
  readonly seen: number;
  readonly incoming: number;
  readonly nextPosition: number;
  readonly budget: number;
  readonly length: number;
  readonly positions: Int32Array;
  readonly #rows: TableRows;

  constructor(rows: TableRows, { seen, incoming, nextPosition, budget }: StepOutlook) {
    this.seen = seen;
    this.incoming = incoming;
    this.nextPosition = nextPosition;
    this.budget = budget;
    this.length = rows.length;
    this.positions = rows.positions.subarray(0, rows.numRows * rows.pageTokens);
    this.#rows = rows;
  }

  get lanes(): readonly Lane[] {
    return this.#rows.group.lanes;
  }

  lengthOf(segment: Segment): number {
    let length = 0;
    for (const { name, held } of this.#rows.segments) if (name === segment) length += held;
    return length;
  }

  segmentOf(slot: number): Segment {
    return this.#rows.segments[this.#rows.segmentAt(slot)]!.name;
  }

  offsetOf(segment: Segment): number {
    return this.#rows.segments[segment === "sinks" ? SINKS : STREAM]!.offset;
  }

  oldest(): IterableIterator<number> {
    return this.#rows.order.fromOldest();
  }

  newest(): IterableIterator<number> {
    return this.#rows.order.fromNewest();
  }

  mass(): Float32Array {
    const { view, group } = this.#rows;
    if (view.received) return view.received.total();
    const message = `Policy ${group.policy.id} reads attention mass but does not declare "mass".`;
    throw new MillraceError("INTERNAL", message);
  }

  countOf(slot: number): number {
    return this.#rows.counts?.[slot] ?? 1;
  }

  keys(slots: readonly number[]): Float32Array {
    return keysIn(this.#rows, slots);
  }

  isThin(slot: number): boolean {
    return this.#rows.segmentAt(slot) === THIN;
  }

  queries(): Float32Array | null {
    const { hasThin, view } = this.#rows;
    return hasThin ? null : (view.measured?.values().slice() ?? null);
  }
}
