/** What attention measures while it runs, for policies to plan by. */
import type { Backend, KvMass, KvQueries, Region, Tempered } from "../../backends/contract.js";
import type { CachePolicy } from "../contract.js";
import { SlotValues } from "./slot-values.js";

/** A position beyond all. */
export const NEVER = 2 ** 31 - 1;

/** Attention mass that slots received. */
export class Mass extends SlotValues implements KvMass {
  from = 0;
  tempered: Tempered | null = null;

  /** Adds what some slots received to what another did. */
  gather(slots: ArrayLike<number>, into: number): void {
    this.eachLane((values) => {
      for (let i = 0; i < slots.length; i++) values[into]! += values[slots[i]!]!;
    });
  }

  /**
   * Says which queries of a step give mass, and forgets what others gave where these are the first to count. `positions`:
   * those of its tokens, of which the first comes after `seen` others.
   */
  aim({ mass, maxIncoming }: CachePolicy, seen: number, positions: Int32Array): void {
    if (!mass) return;
    this.tempered = mass.tempered?.(seen) ?? null;
    if (mass.queries === undefined) return;
    const left = mass.left?.(seen) ?? maxIncoming?.(seen) ?? Number.POSITIVE_INFINITY;
    const first = left - mass.queries;
    this.from = first < 0 ? 0 : (positions[first] ?? NEVER);
    if (first >= 0 && first < positions.length) this.values().fill(0);
  }
}

/** How large queries were, by lane and element. */
export class QuerySums implements KvQueries {
  readonly region: Region;
  from = NEVER;
  readonly #length: number;

  constructor(backend: Backend, lanes: number, headWidth: number) {
    this.#length = lanes * headWidth;
    this.region = backend.allocate(4 * this.#length);
  }

  /** [lanes, D] */
  values(): Float32Array {
    return this.region.float32(0, this.#length);
  }

  copyFrom(other: QuerySums): void {
    this.values().set(other.values());
  }

  /** Has those of a step's queries measured that count for the next choice of elements; as `Mass.aim`. */
  aim({ thins }: CachePolicy, seen: number, positions: Int32Array): void {
    if (!thins) return;
    const first = thins.block - (seen % thins.block) - thins.queries;
    this.from = first < 0 ? 0 : (positions[first] ?? NEVER);
    if (first >= 0 && first < positions.length) this.values().fill(0);
  }

  /** Has none measured: the choice is made. */
  rest(): void {
    this.from = NEVER;
  }

  get isResting(): boolean {
    return this.from === NEVER;
  }
}
