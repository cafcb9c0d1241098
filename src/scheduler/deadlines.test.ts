import { describe, expect, it } from "vitest";
import type { Queue, RunningRequest, WaitingRequest } from "./contract.js";
import { deadlines } from "./deadlines.js";
import { firstCome } from "./first-come.js";

const job = { chunk: Infinity, outputs: "last" as const, pages: 1 };
const waiting = (id: number, deadline?: number): WaitingRequest => ({
  ...job,
  id,
  pending: 5,
  ...(deadline === undefined ? {} : { deadline }),
});
const running = (id: number, deadline?: number): RunningRequest => ({
  ...job,
  id,
  phase: "decode",
  pending: 1,
  ...(deadline === undefined ? {} : { deadline }),
});

describe("deadlines", () => {
  const queue: Queue = {
    waiting: [waiting(1, 100), waiting(2), waiting(3, 101)],
    running: [running(4, 99), running(5, 200), running(6)],
    limits: { maxTokens: 64, maxTokensBesideDecode: 64, maxOutputs: 16, maxSequences: 4 },
    freePages: 100,
    now: 100,
    sinceStep: 0,
  };

  it("ends what is over, and plans for the others as if it were gone", () => {
    const plan = deadlines(firstCome).plan(queue);
    expect(plan.expire).toEqual([1, 4]);
    expect(plan.admit).toEqual([2, 3]);
    expect(plan.work.map(({ id }) => id)).toEqual([5, 6, 2, 3]);
  });

  it("changes nothing before", () => {
    const early = { ...queue, now: 98 };
    expect(deadlines(firstCome).plan(early)).toEqual(firstCome.plan(early));
  });
});
