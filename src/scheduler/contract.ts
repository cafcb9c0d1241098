/**
 * A scheduler decides which tokens of which requests run in the next step. Planning is pure: it reads a view of the
 * queue and returns a plan; only the engine acts on it. One file per policy; policies compose by wrapping one another
 * (resolve.ts), and what a policy remembers changes in `commit` and `ran` only.
 */

/** Where a request stands. `waiting` holds no cache; `prefill` and `decode` hold their reservation. */
export type Phase = "prefill" | "decode";

/**
 * Which pending tokens must give logits. "last": the last one. "all": every one (scoring). "none": these tokens are
 * only taken in.
 */
export type Outputs = "last" | "all" | "none";

/** What is known of any request. Times are milliseconds on the clock of `Queue.now`. */
export interface Job {
  readonly id: number;
  /** Most tokens that its cache takes at once. */
  readonly chunk: number;
  readonly outputs: Outputs;
  /** Tokens in its cache that a further one attends. Absent: none. */
  readonly cached?: number;
  /** Whose request it is. Absent: nobody's in particular, who count together as one more client. */
  readonly client?: string | undefined;
  /** Higher goes first. Absent: 0. */
  readonly priority?: number | undefined;
  /** When it came, or its latest turn began. Absent: now. */
  readonly arrivedAt?: number;
  /** When its answer is of no use any more. Absent: never. */
  readonly deadline?: number | undefined;
  /** It holds pages of its own whether it runs or not, and comes in turns: it takes no place of a request. Absent: no. */
  readonly resident?: boolean;
}

export interface WaitingRequest extends Job {
  /** Tokens that are known and not yet in the cache. */
  readonly pending: number;
  /** Tokens of its prompt, whether in the cache or not: known without looking. Absent: `pending`. */
  readonly promptTokens?: number;
  /** Most pages that the request will ever hold. */
  readonly pages: number;
}

export interface RunningRequest extends Job {
  readonly phase: Phase;
  /** As above; 1 while decoding, 0 while the request is paused (its consumer is behind). */
  readonly pending: number;
  /** Pages that are free once it is put away, at least. Absent: none. */
  readonly pages?: number;
  /** Whether it can be put away. Absent: it cannot. */
  readonly movable?: boolean;
}

export interface Limits {
  /** Most tokens of a step; greater than `maxSequences`, so that decoding can never starve a prefill. */
  readonly maxTokens: number;
  /** Most prefill tokens of a step that also decodes: how long a running answer may stall. At least 1. */
  readonly maxTokensBesideDecode: number;
  /** Most rows of logits of a step; at least `maxSequences`. */
  readonly maxOutputs: number;
  /** Most requests that run at once; residents are not among them. */
  readonly maxSequences: number;
}

/** What a scheduler may see. The engine gives both lists in order of arrival; residents arrive with every turn. */
export interface Queue {
  readonly waiting: readonly WaitingRequest[];
  readonly running: readonly RunningRequest[];
  readonly limits: Limits;
  /** Pages of the arena that no running request has reserved. */
  readonly freePages: number;
  /** Milliseconds on a clock that never goes back. */
  readonly now: number;
  /** Milliseconds that those who decode have waited since the end of the step before; 0 where this is the first. */
  readonly sinceStep: number;
}

/** The next `tokens` pending tokens of request `id` run, and the last `outputs` of them give logits. */
export interface Work {
  readonly id: number;
  readonly tokens: number;
  readonly outputs: number;
}

export interface Plan {
  /** Running requests that are put away before others are admitted, and wait from now on; they have no work. Absent: none. */
  readonly putAway?: readonly number[];
  /** Waiting requests that start now, in order; each then holds its `pages`. */
  readonly admit: readonly number[];
  /** Work of running and just admitted requests; empty when nothing can run. No request appears twice. */
  readonly work: readonly Work[];
  /** Requests, waiting or running, that end now because their deadline has passed; they appear nowhere else. Absent: none. */
  readonly expire?: readonly number[];
}

export interface Scheduler {
  readonly name: string;
  /** Mutates nothing. The plan holds for this queue only. */
  plan(queue: Queue): Plan;
  /** The engine carries `plan` out, which was made for `queue`. Once a step, before `ran`. Absent: nothing to remember. */
  commit?(queue: Queue, plan: Plan): void;
  /** What was committed has run, and took `ms` from planning to its tokens. */
  ran?(ms: number): void;
}
