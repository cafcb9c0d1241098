import { type CachePolicy, type LaneView, NOTHING, type Scope } from "./contract.js";

/** A policy that keeps every token and says what each is worth to the queries to come. */
export interface SelectingPolicy {
  /** As CachePolicy.id. */
  readonly id: string;
  readonly per: Scope;
  /** A token of every so many attends to everything; by what it attends to, those that follow are served. */
  readonly stride: number;
  /** Most tokens that they attend to, beside those stored since. */
  readonly tokens: number;
  /** Worth of each of the held tokens, oldest first, whose slots are given; Infinity: whatever it takes. */
  worth(view: LaneView, slots: readonly number[]): ArrayLike<number>;
}

/** Makes a policy of a worth: everything stays, and most steps attend to what is worth most. */
export function selecting({ id, per, stride, tokens, worth }: SelectingPolicy): CachePolicy {
  return {
    id,
    per,
    mass: { queries: 1 },
    capacity: (demand) => demand.tokens,
    // A full step is of one token: what it attends to chooses for those that follow.
    maxIncoming: (seen) => (seen % stride === 0 ? 1 : stride - (seen % stride)),
    plan: () => NOTHING,
    selects: {
      at: (seen) => (seen % stride === 0 ? "all" : seen % stride === 1 ? "choose" : "keep"),
      choose(view) {
        const slots = [...view.oldest()];
        if (slots.length <= tokens) return slots;
        const values = worth(view, slots);
        // Sorting is stable: of equals the newer are taken.
        const order = slots.map((_, i) => slots.length - 1 - i).sort((a, b) => values[b]! - values[a]! || 0);
        return order.slice(0, tokens).map((i) => slots[i]!);
      },
    },
  };
}

/** The highest mass among each token's neighbours by position, up to `reach` of them on either side. */
export function pooledMass(view: LaneView, slots: readonly number[], reach: number): Float32Array {
  const mass = view.mass();
  return Float32Array.from(slots, (_, i) => {
    let most = 0;
    for (let at = Math.max(0, i - reach); at <= Math.min(slots.length - 1, i + reach); at++)
      most = Math.max(most, mass[slots[at]!]!);
    return most;
  });
}
