/** Queues for tests of schedulers. */
import type { Limits, Queue } from "../../src/scheduler/contract.js";

/** Makes queues within `limits`: nobody in them, 100 pages free, at time 0, but for what is given. */
export const queuesWithin =
  (limits: Limits) =>
  (queue: Partial<Queue>): Queue => ({
    waiting: [],
    running: [],
    limits,
    freePages: 100,
    now: 0,
    sinceStep: 0,
    ...queue,
  });
