import type { Job, Queue, Work } from "./contract.js";

/** What a step's duration depends on. */
export interface StepShape {
  /** Tokens of requests that decode. */
  readonly decodeRows: number;
  readonly prefillTokens: number;
  /** Rows of logits of prefills. */
  readonly prefillOutputs: number;
  /** Cached tokens that rows attend, summed over rows: of those that decode, and of prefills. */
  readonly decodeReads: number;
  readonly prefillReads: number;
}

/** The shape of `work`, which was planned for `queue`. */
export function shapeOf(
  work: readonly Work[],
  { running, waiting }: Pick<Queue, "running" | "waiting">,
): StepShape {
  const jobs = new Map<number, { readonly job: Job; readonly decodes: boolean }>();
  for (const job of waiting) jobs.set(job.id, { job, decodes: false });
  for (const job of running) jobs.set(job.id, { job, decodes: job.phase === "decode" });
  const shape = {
    decodeRows: 0,
    prefillTokens: 0,
    prefillOutputs: 0,
    decodeReads: 0,
    prefillReads: 0,
  };
  for (const { id, tokens, outputs } of work) {
    const { job, decodes } = jobs.get(id)!;
    // Each row also attends those of its own chunk that come before it, and itself.
    const reads = tokens * ((job.cached ?? 0) + (tokens + 1) / 2);
    if (decodes) {
      shape.decodeRows += tokens;
      shape.decodeReads += reads;
    } else {
      shape.prefillTokens += tokens;
      shape.prefillOutputs += outputs;
      shape.prefillReads += reads;
    }
  }
  return shape;
}
