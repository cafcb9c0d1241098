/** A lane group as a policy sees it, made by hand. */
import type { LaneView } from "../../src/cache/contract.js";

export interface ViewOptions {
  readonly seen?: number;
  readonly nextPosition?: number;
  /** By slot. */
  readonly mass?: readonly number[];
  readonly counts?: readonly number[];
  readonly keys?: readonly (readonly number[])[];
  /** Slots whose keys are thin. */
  readonly thin?: readonly number[];
  readonly queries?: readonly number[];
}

/** A view of tokens in slots 0, 1, 2, ... at these positions (-1: none), all of the stream segment. */
export function viewOf(at: readonly number[], options: ViewOptions = {}): LaneView {
  const positions = Int32Array.from(at);
  const slots = [...at.keys()].filter((slot) => at[slot]! >= 0).sort((a, b) => at[a]! - at[b]!);
  return {
    lanes: [{ layer: 0, head: 0 }],
    seen: options.seen ?? slots.length,
    length: slots.length,
    incoming: 1,
    nextPosition: options.nextPosition ?? Math.max(-1, ...at) + 1,
    budget: Number.POSITIVE_INFINITY,
    positions,
    lengthOf: (segment) => (segment === "stream" ? slots.length : 0),
    segmentOf: () => "stream",
    offsetOf: () => 0,
    oldest: () => slots.values(),
    newest: () => slots.toReversed().values(),
    countOf: (slot) => options.counts?.[slot] ?? 1,
    keys: (slots) => Float32Array.from(slots.flatMap((slot) => options.keys?.[slot] ?? [0])),
    isThin: (slot) => options.thin?.includes(slot) ?? false,
    queries: () => (options.thin?.length ? null : Float32Array.from(options.queries ?? [])),
    mass: () => Float32Array.from(options.mass ?? new Array<number>(at.length).fill(0)),
  };
}
