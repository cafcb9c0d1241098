import { describe, expect, it } from "vitest";
import { queuesWithin } from "../../test/support/queue.js";
import type { Limits, Queue, RunningRequest, WaitingRequest } from "./contract.js";
import { firstCome } from "./first-come.js";
import { preempt } from "./preempt.js";

const limits: Limits = { maxTokens: 32, maxTokensBesideDecode: 32, maxOutputs: 8, maxSequences: 3 };
const job = { chunk: Infinity, outputs: "last" as const };
const waiting = (id: number, priority: number, pages: number): WaitingRequest => ({
  ...job,
  id,
  priority,
  pages,
  pending: 4,
});
const running = (id: number, priority: number, pages: number, movable = true): RunningRequest => ({
  ...job,
  id,
  priority,
  pages,
  movable,
  phase: "decode",
  pending: 1,
  arrivedAt: id,
});
const plan = (queue: Partial<Queue>) =>
  preempt(firstCome).plan(queuesWithin(limits)({ freePages: 0, now: 9, ...queue }));

describe("preempt", () => {
  it("changes nothing where the first in the line fits, or there is none", () => {
    const queue = { running: [running(1, 0, 5)], waiting: [waiting(2, 9, 3)], freePages: 3 };
    expect(plan(queue)).toEqual({ admit: [2], work: expect.any(Array) });
    expect(plan({ running: [running(1, 0, 5)] })).not.toHaveProperty("putAway");
  });

  it("puts away the lowest first, then the newest, and no more than it takes", () => {
    const queue = {
      running: [running(1, 1, 5), running(2, 0, 5), running(3, 0, 5)],
      waiting: [waiting(4, 2, 4)],
    };
    const { admit, work, putAway } = plan(queue);
    expect(putAway).toEqual([3]);
    expect(admit).toEqual([4]);
    expect(work.map(({ id }) => id)).toEqual([1, 2, 4]);
    expect(plan({ ...queue, waiting: [waiting(4, 2, 12)] }).putAway).toEqual([3, 2, 1]);
  });

  it("makes a place where pages are free but all places are taken", () => {
    const full = [1, 2, 3].map((id) => running(id, 0, 1));
    expect(plan({ running: full, waiting: [waiting(4, 1, 2)], freePages: 50 }).putAway).toEqual([3]);
  });

  it("puts nobody away for an equal, in vain, or who cannot be moved", () => {
    const queue = { running: [running(1, 0, 5), running(2, 0, 5, false)], freePages: 1 };
    expect(plan({ ...queue, waiting: [waiting(4, 0, 4)] })).not.toHaveProperty("putAway");
    expect(plan({ ...queue, waiting: [waiting(4, 1, 7)] })).not.toHaveProperty("putAway");
    expect(plan({ ...queue, waiting: [waiting(4, 1, 6)] }).putAway).toEqual([1]);
  });
});
