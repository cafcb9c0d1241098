/** Times between the pieces of answers, for those who watch. */

/** Most that one watcher keeps between two looks; of more, those that came last. */
const MOST = 4096;

export interface GapWatcher {
  /** Of what was seen since it was last asked, in milliseconds; null for nothing. */
  take(): { readonly p50: number; readonly p99: number } | null;
  stop(): void;
}

export class Gaps {
  readonly #watchers = new Set<number[]>();

  get isWatched(): boolean {
    return this.#watchers.size > 0;
  }

  saw(ms: number): void {
    for (const seen of this.#watchers) {
      seen.push(ms);
      if (seen.length > MOST) seen.shift();
    }
  }

  watch(): GapWatcher {
    const seen: number[] = [];
    this.#watchers.add(seen);
    return {
      take: () => {
        const sorted = seen.splice(0).sort((a, b) => a - b);
        if (sorted.length === 0) return null;
        const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
        return { p50: at(0.5), p99: at(0.99) };
      },
      stop: () => this.#watchers.delete(seen),
    };
  }
}
