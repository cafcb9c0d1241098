/** What a stream has seen: the cache of its keys and values, and its tokens by id. Both end at the same place, always. */
import type { SequenceCache } from "../../cache/sequence.js";
import type { SessionReport } from "../protocol.js";
import { Transcript } from "./transcript.js";

export class StreamState {
  readonly cache: SequenceCache;
  readonly transcript: Transcript;

  /** `cache` has seen what `transcript` says was run; without one, nothing. */
  constructor(cache: SequenceCache, transcript: Transcript = new Transcript()) {
    this.cache = cache;
    this.transcript = transcript;
  }

  report(): SessionReport {
    const { groups: _, ...report } = this.cache.report();
    return { ...report, waiting: this.transcript.numWaiting };
  }

  /** A second one that stands where this one does, on the same pages. Throws OUT_OF_BUDGET. */
  fork(): StreamState {
    return new StreamState(this.cache.fork(), this.transcript.copy());
  }

  /**
   * Forgets the tokens at position `to` and after; the one before waits again, so that there is one to go on from. Returns
   * what is left: see SequenceCache.rewindable. Throws INVALID_ARGUMENT, changing nothing, where the policy no longer holds
   * the tokens around.
   */
  rewind(to: number): "exact" | "approximate" {
    const { transcript, cache } = this;
    if (to > transcript.ran) {
      transcript.truncate(to, false);
      return "exact";
    }
    const again = transcript.ranAt(to - 1) !== undefined && cache.rewindable(to - 1) !== "gone";
    const keep = again ? to - 1 : to;
    const left = cache.rewindable(keep);
    cache.rewind(keep);
    transcript.truncate(to, again);
    return left === "gone" ? "approximate" : left;
  }

  /** Takes the last `count` tokens, those of a stop string, which is no part of an answer, out where that leaves no trace. */
  unsay(count: number): void {
    const { transcript, cache } = this;
    // What was appended between them is the caller's.
    if (count === 0 || count > transcript.said) return;
    const to = transcript.length - count;
    const ran = to <= transcript.ran;
    if (ran && transcript.ranAt(to - 1) === undefined) return;
    if (!ran || cache.rewindable(to - 1) === "exact") this.rewind(to);
  }

  /** A step that took `count` tokens has failed: they wait again. Throws as `SequenceCache.rewind`. */
  putBack(count: number): void {
    if (count === 0) return;
    this.transcript.putBack(count);
    this.cache.rewind(this.transcript.ran);
  }
}
