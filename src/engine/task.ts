/** What the engine runs: requests, which come and go, and streams, which stay between their turns. */
import type { CacheLayout } from "../cache/layout.js";
import type { KvPool } from "../cache/pool.js";
import type { PrefixTree } from "../cache/prefix.js";
import type { SequenceCache } from "../cache/sequence.js";
import type { MillraceError } from "../errors.js";
import type { RunningRequest, WaitingRequest } from "../scheduler/contract.js";

/** Where the pages of sequences lie: a pool of them, cut by one layout. All sequences of a step run in one batch. */
export interface Place {
  readonly pool: KvPool;
  readonly layout: CacheLayout;
  /** What its requests have run, for those that begin alike; absent: they share nothing. */
  readonly prefix?: PrefixTree;
}

/**
 * A sequence with work. The engine calls `admit` once, then for each step that it takes part in `take`, `accept` for
 * each of its rows of logits or states, and `settle`; it lets go of the task as soon as it is `done` in a step (between
 * steps, see `Engine.withdraw`). One that comes in turns goes back to the end of the line when a turn is over and others wait, and is admitted again.
 */
export interface Task extends WaitingRequest, RunningRequest {
  readonly place: Place;
  /** On the engine's clock, which sets it: when it was put in the line, at its end. */
  arrivedAt: number;
  readonly pages: number;
  /** Number of the adapter that its tokens run with; absent: none. */
  readonly adapter?: number;
  /** There from `admit` on. */
  readonly cache: SequenceCache | null;
  /** Whether it can be put away now. Absent: never. */
  readonly movable?: boolean;
  /** What it would run next is on its way from disk, and is there when this resolves. Absent or null: nothing is. */
  readonly coming?: Promise<void> | null;
  /** Nothing is left to run. */
  readonly done: boolean;
  /** It shall end although its tokens are in a step that is under way. */
  cancelled: boolean;
  /** Its turn has come, perhaps again. Throws OUT_OF_BUDGET. */
  admit(): void;
  /** Gives its pages up until it is admitted again. Throws WRITE_FAILED, and then stays as it is, never movable again. */
  putAway?(): void;
  /** While it runs, before every planning: takes in what others have done for it. */
  look?(): void;
  /** The next `count` pending tokens, which have slots; valid until the next call. */
  take(count: number): Int32Array;
  /** How many of its next `tokens` pending tokens, the last ones, must give states. Absent: none ever. */
  states?(tokens: number): number;
  /** A row of logits of its last tokens, or of their states, read during the call only. Throws what its decoder throws. */
  accept(row: Float32Array, now: number): void;
  /** The step that it took part in has been committed. */
  settle(): void;
  /** Whether its turn is over; the next one then begins. Absent: it runs to its end. */
  endTurn?(): boolean;
  /** Its deadline has passed, `now` by the engine's clock. It has left the line. Absent where it never has one. */
  expire?(now: number): void;
  /** Ends with "aborted"; `done` from now on. */
  cancel(): void;
  /** Ends with `error`, what it took in this step undone where it lives on; `done` from now on. */
  fail(error: MillraceError): void;
}
