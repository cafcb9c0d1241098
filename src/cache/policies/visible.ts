import type { CachePolicy, LaneView } from "../contract.js";

/**
 * Wraps the policy of a layer that has a sliding window of its own: tokens that no later query of the layer can see
 * expire first, and `inner` decides about the rest. The output stays exactly that of `inner`.
 *
 * A query sees `window` tokens, itself included, so a step of n tokens needs window - 1 older ones.
 */
export function visible(window: number, inner: CachePolicy): CachePolicy {
  return {
    id: `visible(window=${window}, ${inner.id})`,
    sinks: inner.sinks ?? 0,
    per: inner.per ?? "model",
    merges: inner.merges ?? false,
    ...(inner.settles === undefined ? {} : { settles: inner.settles }),
    ...(inner.chooses ? { chooses: inner.chooses } : {}),
    ...(inner.thins ? { thins: inner.thins } : {}),
    ...(inner.mass ? { mass: inner.mass } : {}),
    capacity: (demand) => Math.min(inner.capacity(demand), window - 1 + Math.min(demand.step, demand.tokens)),
    maxIncoming: (seen) => inner.maxIncoming?.(seen) ?? Number.POSITIVE_INFINITY,
    plan(view) {
      const expired: number[] = [];
      for (const slot of view.oldest()) {
        if (view.nextPosition - view.positions[slot]! < window) break;
        expired.push(slot);
      }
      if (expired.length === 0) return inner.plan(view);
      return [{ kind: "expire", slots: expired }, ...inner.plan(new Remaining(view, expired))];
    },
  };
}

/** A view as it will be once the tokens in some slots are gone. */
class Remaining implements LaneView {
  readonly #view: LaneView;
  readonly #gone: ReadonlySet<number>;
  #positions: Int32Array | null = null;

  constructor(view: LaneView, gone: readonly number[]) {
    this.#view = view;
    this.#gone = new Set(gone);
  }

  get lanes() {
    return this.#view.lanes;
  }
  get seen() {
    return this.#view.seen;
  }
  get length() {
    return this.#view.length - this.#gone.size;
  }
  get incoming() {
    return this.#view.incoming;
  }
  get nextPosition() {
    return this.#view.nextPosition;
  }
  get budget() {
    return this.#view.budget;
  }
  get positions() {
    if (!this.#positions) {
      this.#positions = this.#view.positions.slice();
      for (const slot of this.#gone) this.#positions[slot] = -1;
    }
    return this.#positions;
  }
  lengthOf(segment: "sinks" | "stream") {
    let length = this.#view.lengthOf(segment);
    for (const slot of this.#gone) if (this.segmentOf(slot) === segment) length--;
    return length;
  }
  segmentOf(slot: number) {
    return this.#view.segmentOf(slot);
  }
  offsetOf(segment: "sinks" | "stream") {
    return this.#view.offsetOf(segment);
  }
  oldest() {
    return this.#remaining(this.#view.oldest());
  }
  newest() {
    return this.#remaining(this.#view.newest());
  }
  mass() {
    return this.#view.mass();
  }
  countOf(slot: number) {
    return this.#view.countOf(slot);
  }
  keys(slots: readonly number[]) {
    return this.#view.keys(slots);
  }
  isThin(slot: number) {
    return this.#view.isThin(slot);
  }
  queries() {
    return this.#view.queries();
  }

  *#remaining(slots: Iterable<number>) {
    for (const slot of slots) if (!this.#gone.has(slot)) yield slot;
  }
}
