import type { Plan, Segment } from "./contract.js";
import type { Removal } from "./table/staged-plan.js";
import type { LaneTable } from "./table.js";

/** Original positions, [first, last]. */
export type Range = readonly [number, number];

/**
 * Told for every change that a plan or a rewind makes. Ranges are [first, last] original positions; a token counts as
 * as many as were merged into it, whose positions are not told again.
 */
export type CacheEvent =
  | {
      /**
       * "demote": to the tier below, instead of a drop. "drop" of tokens that were demoted before: that tier has lost
       * them. "recall": these demoted tokens are attended again, instead of those recalled before. "thin": the keys of
       * these tokens are stored without some of their elements from now on.
       */
      readonly kind: "drop" | "demote" | "expire" | "rewind" | "recall" | "thin";
      readonly group: number;
      readonly count: number;
      readonly ranges: readonly Range[];
    }
  | {
      /** These tokens became part of the one at position `into`. */
      readonly kind: "merge";
      readonly group: number;
      readonly into: number;
      readonly count: number;
      readonly ranges: readonly Range[];
    }
  | { readonly kind: "move"; readonly group: number; readonly segment: Segment; readonly offset: number }
  /** The `count` tokens held count from now on as stored at positions from `first` on, one after another. */
  | { readonly kind: "settle"; readonly group: number; readonly first: number; readonly count: number };

/** Tells listeners what changes: at once, or what changes within a step when the step is over. */
export class CacheEvents {
  readonly #listeners = new Set<(event: CacheEvent) => void>();
  /** Null between steps. */
  #late: CacheEvent[] | null = null;

  get hasListeners(): boolean {
    return this.#listeners.size > 0;
  }

  /** Calls `listener` for every event until the returned function is called. */
  listen(listener: (event: CacheEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(event: CacheEvent): void {
    if (this.#late) this.#late.push(event);
    else for (const listener of this.#listeners) listener(event);
  }

  /** A step begins: `first` is told when it is over, and then what is told until then. */
  hold(first: CacheEvent[]): void {
    this.#late = first;
  }

  /** The step is over. */
  release(): void {
    const events = this.#late ?? [];
    this.#late = null;
    for (const event of events) this.tell(event);
  }
}

/** What the plan that a group's table has staged will have done. `demotes`: to a tier below, instead of a drop. */
export function stagedEvents(
  table: LaneTable,
  plan: Plan,
  { group, demotes, nextPosition }: { group: number; demotes: boolean; nextPosition: number },
): CacheEvent[] {
  const events: CacheEvent[] = [];
  for (const kind of ["drop", "expire"] as const) {
    const removed = table.removals.filter((removal) => removal.kind === kind);
    if (removed.length === 0) continue;
    const told = kind === "drop" && demotes ? "demote" : kind;
    const lost = removed.reduce((sum, removal) => sum + removal.count, 0);
    const count = told === "demote" ? removed.length : lost;
    events.push({ kind: told, group, count, ranges: rangesOf(removed) });
  }
  const merged = table.removals.filter((removal) => removal.kind === "merge");
  for (const step of plan) {
    if (step.kind === "merge") {
      const ranges = rangesOf(merged.splice(0, step.slots.length));
      const into = table.positionOf(step.into);
      events.push({ kind: "merge", group, into, count: step.slots.length, ranges });
    }
    if (step.kind === "thin") {
      const thinned = Array.from(step.slots, (slot) => ({ position: table.positionOf(slot) }));
      events.push({ kind: "thin", group, count: thinned.length, ranges: rangesOf(thinned) });
    }
    if (step.kind === "move") {
      events.push({ kind: "move", group, segment: step.segment, offset: step.offset });
    }
    if (step.kind === "settle") {
      const count = table.length;
      events.push({ kind: "settle", group, first: nextPosition - count, count });
    }
  }
  return events;
}

/** Original positions as ascending runs. */
function rangesOf(removals: readonly Pick<Removal, "position">[]): Range[] {
  const positions = Int32Array.from(removals, ({ position }) => position).sort();
  const ranges: [number, number][] = [];
  for (const position of positions) {
    const last = ranges.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else ranges.push([position, position]);
  }
  return ranges;
}
