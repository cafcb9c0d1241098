/** Where the tokens of a stream are, by where they stand in it: what a picture of the cache is drawn from. */
import type { Lane } from "./contract.js";
import type { SequenceCache } from "./sequence.js";
import type { Recall } from "./tiers/recall.js";

/**
 * Tokens of each stretch of the stream, for lanes that decide together. What is in none of the lists was dropped, or lies
 * out of sight of a layer's own sliding window.
 */
export interface GroupMap {
  readonly lanes: readonly Lane[];
  /** Attended. */
  readonly memory: readonly number[];
  /** Part of an attended token, where which they are counted. */
  readonly merged: readonly number[];
  /** In the tier below. */
  readonly disk: readonly number[];
  /** Of those in the tier: attended too, since the last question. */
  readonly recalled: readonly number[];
}

export interface StreamMap {
  /** Tokens of the stream so far. */
  readonly seen: number;
  /** Tokens of a stretch: stretch i begins at token i * width. */
  readonly width: number;
  readonly groups: readonly GroupMap[];
}

/** Counts by stretch, as whole numbers that add up to what was put in. */
class Stretches {
  readonly counts: number[];
  readonly #width: number;

  constructor(columns: number, width: number) {
    this.counts = new Array<number>(columns).fill(0);
    this.#width = width;
  }

  add(position: number, count: number): void {
    this.counts[this.#column(position)]! += count;
  }

  /** Puts `count` tokens that lie somewhere from `first` to `last`, evenly. */
  spread(first: number, last: number, count: number): void {
    // Most blocks lie in one stretch, and there may be very many.
    if (this.#column(first) === this.#column(last)) this.add(first, count);
    else {
      const at = (i: number) => first + Math.floor(((i + 0.5) * (last - first + 1)) / count);
      for (let i = 0; i < count; i++) this.add(at(i), 1);
    }
  }

  #column(position: number): number {
    return Math.min(this.counts.length - 1, Math.floor(position / this.#width));
  }
}

/** The map of a cache, and of the tier below it, in at most `columns` stretches (a whole number from 1 on). */
export function mapStream(cache: SequenceCache, tier: Recall | null, columns: number): StreamMap {
  const seen = cache.length;
  const width = Math.max(1, Math.ceil(cache.nextPosition / columns));
  const used = Math.max(1, Math.ceil(cache.nextPosition / width));
  const groups = cache.layout.groups.map(({ lanes }, group): GroupMap => {
    const stretches = () => new Stretches(used, width);
    const [memory, merged, disk, recalled] = [stretches(), stretches(), stretches(), stretches()];
    for (const { position, count } of cache.heldBy(group)) {
      memory.add(position, 1);
      merged.add(position, count - 1);
    }
    for (const { first, last, tokens } of tier?.spans(group) ?? []) disk.spread(first, last, tokens);
    for (const position of tier?.recalledBy(group) ?? []) recalled.add(position, 1);
    return {
      lanes,
      memory: memory.counts,
      merged: merged.counts,
      disk: disk.counts,
      recalled: recalled.counts,
    };
  });
  return { seen, width, groups };
}
