/** How the policies go together: the one place that knows them all. */
import { background } from "./background.js";
import { type BoundedScheduler, boundStall, type StallReport } from "./bound-stall.js";
import { byPriority } from "./by-priority.js";
import type { Scheduler } from "./contract.js";
import { deadlines } from "./deadlines.js";
import { fair } from "./fair.js";
import { firstCome } from "./first-come.js";
import { preempt } from "./preempt.js";

export interface ScheduleSpec {
  /** Longest gap between two tokens of an answer that others' prompts may cause; absent: chunks are of fixed length. */
  readonly maxStallMs?: number;
}

/** A level of priority that waits this long for its turn counts as one higher. */
const AGEING_MS = 10_000;

/**
 * Who comes first goes first, as long as nobody names a client, a priority or a deadline. Where they do: what is too
 * late ends; what nobody waits for stands back; then priorities, for whose sake lower ones are put away; among equals,
 * fair turns between clients; within a client, as they came.
 */
export function composeScheduler({ maxStallMs }: ScheduleSpec): {
  readonly scheduler: Scheduler;
  /** Null where no bound was asked for. */
  readonly stalls: () => StallReport | null;
} {
  const bounded: BoundedScheduler | null =
    maxStallMs === undefined ? null : boundStall(firstCome, maxStallMs);
  // The last to sort decides first.
  const scheduler = deadlines(background(fair(byPriority(preempt(bounded ?? firstCome), AGEING_MS))));
  return { scheduler, stalls: () => bounded?.report() ?? null };
}
