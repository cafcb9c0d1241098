/**
 * A scheduler decides which tokens of which requests run in the next step. Planning is pure: it reads a view of the
 * queue and returns a plan; only the engine acts on it. One file per policy.
 */

/** Where a request stands. `waiting` holds no cache; `prefill` and `decode` hold their reservation. */
export type Phase = "prefill" | "decode";

/**
 * Which pending tokens must give logits. "last": the last one. "all": every one (scoring). "none": these tokens are
 * only taken in.
 */
export type Outputs = "last" | "all" | "none";

export interface WaitingRequest {
  readonly id: number;
  /** Tokens that are known and not yet in the cache. */
  readonly pending: number;
  readonly outputs: Outputs;
  /** Most tokens that its cache takes at once. */
  readonly chunk: number;
  /** Most pages that the request will ever hold. */
  readonly pages: number;
}

export interface RunningRequest {
  readonly id: number;
  readonly phase: Phase;
  /** As above; 1 while decoding, 0 while the request is paused (its consumer is behind). */
  readonly pending: number;
  readonly chunk: number;
  readonly outputs: Outputs;
}

export interface Limits {
  /** Most tokens of a step; greater than `maxSequences`, so that decoding can never starve a prefill. */
  readonly maxTokens: number;
  /** Most prefill tokens of a step that also decodes: how long a running answer may stall. At least 1. */
  readonly maxTokensBesideDecode: number;
  /** Most rows of logits of a step; at least `maxSequences`. */
  readonly maxOutputs: number;
  /** Most requests that run at once. */
  readonly maxSequences: number;
}

/** What a scheduler may see. Both lists are in order of arrival. */
export interface Queue {
  readonly waiting: readonly WaitingRequest[];
  readonly running: readonly RunningRequest[];
  readonly limits: Limits;
  /** Pages of the arena that no running request has reserved. */
  readonly freePages: number;
}

/** The next `tokens` pending tokens of request `id` run, and the last `outputs` of them give logits. */
export interface Work {
  readonly id: number;
  readonly tokens: number;
  readonly outputs: number;
}

export interface Plan {
  /** Waiting requests that start now, in order; each then holds its `pages`. */
  readonly admit: readonly number[];
  /** Work of running and just admitted requests; empty when nothing can run. No request appears twice. */
  readonly work: readonly Work[];
}

export interface Scheduler {
  readonly name: string;
  /** Mutates nothing. The plan holds for this queue only. */
  plan(queue: Queue): Plan;
}
