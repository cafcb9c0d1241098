import { describe, expect, it } from "vitest";
import { queuesWithin } from "../../test/support/queue.js";
import { byPriority } from "./by-priority.js";
import type { Limits, RunningRequest, Scheduler, WaitingRequest } from "./contract.js";
import { fair } from "./fair.js";
import { firstCome } from "./first-come.js";

const limits: Limits = { maxTokens: 32, maxTokensBesideDecode: 32, maxOutputs: 8, maxSequences: 2 };
const AGEING = 1000;

const waiting = (id: number, priority: number, more: Partial<WaitingRequest> = {}): WaitingRequest => ({
  id,
  pending: 5,
  chunk: Infinity,
  outputs: "last",
  pages: 1,
  priority,
  ...more,
});

const running = (id: number, priority: number, more: Partial<RunningRequest> = {}): RunningRequest => ({
  id,
  phase: "prefill",
  pending: 100,
  chunk: Infinity,
  outputs: "last",
  priority,
  ...more,
});

const queueOf = queuesWithin(limits);

/** What is admitted of `line` while others of `line` stay waiting: one place, once a second. */
function admissions(scheduler: Scheduler, line: WaitingRequest[], next: (id: number) => WaitingRequest) {
  const order: number[] = [];
  let id = 100;
  for (let now = 0; now < 20_000; now += 250) {
    const queue = queueOf({
      waiting: [...line],
      now,
      running: [running(0, 0, { phase: "decode", pending: 1 })],
    });
    const plan = scheduler.plan(queue);
    scheduler.commit?.(queue, plan);
    scheduler.ran?.(1);
    for (const admitted of plan.admit) {
      order.push(admitted);
      line.splice(
        line.findIndex((job) => job.id === admitted),
        1,
      );
      line.push(next(id++));
    }
  }
  return order;
}

describe("byPriority", () => {
  it("is first-come where nobody has a priority", () => {
    const queue = queueOf({ waiting: [3, 1, 2].map((id) => waiting(id, 0)), running: [running(9, 0)] });
    expect(byPriority(firstCome, AGEING).plan(queue)).toEqual(firstCome.plan(queue));
  });

  it("admits the higher first, and equal ones as they came", () => {
    const line = [waiting(1, 0), waiting(2, 5), waiting(3, -1), waiting(4, 5)];
    expect(byPriority(firstCome, AGEING).plan(queueOf({ waiting: line })).admit).toEqual([2, 4]);
  });

  it("gives the prompt of the higher the next chunk", () => {
    const plan = byPriority(firstCome, AGEING).plan(queueOf({ running: [running(1, 0), running(2, 1)] }));
    expect(plan.work).toEqual([{ id: 2, tokens: 32, outputs: 0 }]);
  });

  it("lets a prompt of lower priority stand back for one that can begin, and for none that cannot", () => {
    const scheduler = byPriority(firstCome, AGEING);
    const begins = queueOf({ running: [running(1, 0)], waiting: [waiting(2, 1)] });
    expect(scheduler.plan(begins)).toEqual({ admit: [2], work: [{ id: 2, tokens: 5, outputs: 1 }] });
    const full = queueOf({ running: [running(1, 0)], waiting: [waiting(2, 1, { pages: 500 })] });
    expect(scheduler.plan(full)).toEqual({ admit: [], work: [{ id: 1, tokens: 32, outputs: 0 }] });
    // Who has stood back for long does so no more.
    const old = queueOf({ running: [running(1, 0, { arrivedAt: -AGEING })], waiting: [waiting(2, 1)] });
    expect(scheduler.plan(old)).toEqual({ admit: [], work: [{ id: 1, tokens: 32, outputs: 0 }] });
  });

  it("forgets nobody: a level that waits long comes before higher ones, once", () => {
    const order = admissions(
      byPriority(firstCome, AGEING),
      [waiting(1, 0), waiting(2, 0), waiting(3, 3), waiting(4, 3)],
      (id) => waiting(id, 3),
    );
    // Level 0 becomes level 3 after three seconds, and comes first in the line then.
    expect(order.slice(0, 2)).toEqual([3, 4]);
    const [first, second] = [order.indexOf(1), order.indexOf(2)];
    expect(first).toBeGreaterThan(8);
    expect(first).toBeLessThan(18);
    expect(second - first).toBeGreaterThan(8);
    expect(second - first).toBeLessThan(18);
  });

  it("leaves turns between clients to whoever takes them, within a level", () => {
    const clients = [..."aaaab"];
    const line = clients.map((client, id) => waiting(id, id === 3 ? 1 : 0, { client }));
    const four = { ...limits, maxSequences: 4 };
    const scheduler = fair(byPriority(firstCome, AGEING));
    expect(scheduler.plan(queueOf({ waiting: line, limits: four })).admit).toEqual([3, 0, 4, 1]);
  });
});
