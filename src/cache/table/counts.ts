import type { TableState } from "../snapshot.js";
import { NONE } from "./order.js";
import type { Removal } from "./staged-plan.js";

/** Tokens of one table: kept + merged + demoted + dropped + expired = seen, always. */
export interface LaneCounts {
  readonly seen: number;
  readonly kept: number;
  /** Of those kept: tokens whose keys are stored without some of their elements. */
  readonly thinned: number;
  /** Part of another token, which is kept (or demoted). */
  readonly merged: number;
  /** In the tier below the cache: not attended unless recalled, and not lost. */
  readonly demoted: number;
  readonly dropped: number;
  /** Out of sight of the layer's own sliding window; nothing was lost with them. */
  readonly expired: number;
}

type SavedCounts = Pick<
  TableState,
  "seen" | "merged" | "demoted" | "dropped" | "expired" | "newestLost" | "exactFrom"
>;

/** What became of the tokens that a table does not hold any more, and how far back it can still be rewound. */
export class TokenCounts {
  seen = 0;
  #merged = 0;
  #demoted = 0;
  #dropped = 0;
  #expired = 0;
  /** Position of the newest token that a plan ever took out, or merged others into. */
  #newestLost = NONE;
  /** Least position to which a rewind is exact: where the step began that last took something out. */
  #exactFrom = 0;

  static from(saved: SavedCounts): TokenCounts {
    const counts = new TokenCounts();
    counts.seen = saved.seen;
    counts.#merged = saved.merged;
    counts.#demoted = saved.demoted;
    counts.#dropped = saved.dropped;
    counts.#expired = saved.expired;
    counts.#newestLost = saved.newestLost;
    counts.#exactFrom = saved.exactFrom;
    return counts;
  }

  /** All of it, for `from`. */
  get saved(): SavedCounts {
    return {
      seen: this.seen,
      merged: this.#merged,
      demoted: this.#demoted,
      dropped: this.#dropped,
      expired: this.#expired,
      newestLost: this.#newestLost,
      exactFrom: this.#exactFrom,
    };
  }

  /** Whether attention misses something: tokens out of sight of the layer's own window do not count. */
  get hasLost(): boolean {
    return this.#merged + this.#demoted + this.#dropped > 0;
  }

  of(kept: number, thinned: number): LaneCounts {
    const { seen } = this;
    return {
      seen,
      kept,
      thinned,
      merged: this.#merged,
      demoted: this.#demoted,
      dropped: this.#dropped,
      expired: this.#expired,
    };
  }

  /** A plan took a token out for good; with `demotes` what it drops is in the tier below now. */
  remove({ kind, position, count }: Removal, demotes: boolean): void {
    if (kind === "merge") this.#merged++;
    else if (kind === "drop" && demotes) this.#demoted++;
    else {
      // Those that were merged into it go with it.
      this.#merged -= count - 1;
      if (kind === "expire") this.#expired += count;
      else this.#dropped += count;
    }
    this.change(position);
  }

  /** The token at this position cannot be had again as it was. */
  change(position: number): void {
    this.#newestLost = Math.max(this.#newestLost, position);
  }

  /** The tier below has lost so many tokens, and others that were merged into these. */
  lose(count: number, merged: number): void {
    this.#demoted -= count;
    this.#merged -= merged;
    this.#dropped += count + merged;
  }

  /** A step that begins at this position changed what is held: a rewind to before it is not exact. */
  changeAt(nextPosition: number): void {
    this.#exactFrom = nextPosition;
  }

  /** See SequenceCache.rewindable. `forgets`: what attention measured or chose would not be as it was. */
  rewindable(to: number, forgets: boolean): "exact" | "approximate" | "gone" {
    if (to >= this.#exactFrom && !forgets) return "exact";
    return to > this.#newestLost + 1 || this.#newestLost === NONE ? "approximate" : "gone";
  }

  /** The last `removed` tokens, at position `to` and after, were never seen. */
  rewind(to: number, removed: number): void {
    this.seen -= removed;
    this.#exactFrom = Math.min(this.#exactFrom, to);
  }
}
