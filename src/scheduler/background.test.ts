import { describe, expect, it } from "vitest";
import { queuesWithin } from "../../test/support/queue.js";
import { BACKGROUND, background } from "./background.js";
import type { Limits, Plan, Queue, RunningRequest, WaitingRequest } from "./contract.js";
import { firstCome } from "./first-come.js";
import { preempt } from "./preempt.js";

const limits: Limits = { maxTokens: 256, maxTokensBesideDecode: 256, maxOutputs: 8, maxSequences: 4 };
const queueOf = queuesWithin(limits);

const job = { chunk: Infinity, outputs: "last" } as const;
const waiting = (id: number, priority: number, pending = 50): WaitingRequest => ({
  ...job,
  id,
  pending,
  pages: 1,
  priority,
});
const prompt = (id: number, priority: number, pending = 100): RunningRequest => ({
  ...job,
  id,
  phase: "prefill",
  pending,
  priority,
});
const answer = (id: number, priority: number, more: Partial<RunningRequest> = {}): RunningRequest => ({
  ...job,
  id,
  phase: "decode",
  pending: 1,
  priority,
  ...more,
});
const LOW = BACKGROUND;
const idsOf = ({ work }: Plan) => work.map(({ id }) => id).sort();

/** Runs steps of one queue, each so long; tells which had background work (ids from 100 on) in them. */
function steps(queue: Queue, count: number, ms: number, scheduler = background(firstCome)) {
  return Array.from({ length: count }, () => {
    const plan = scheduler.plan(queue);
    scheduler.commit?.(queue, plan);
    scheduler.ran?.(ms);
    return plan;
  });
}
const rides = (plan: Plan) => plan.work.some(({ id }) => id >= 100);

describe("background", () => {
  it("changes nothing where there is only one kind of work", () => {
    for (const queue of [
      queueOf({ running: [answer(1, 0), prompt(2, 5)], waiting: [waiting(3, -99)] }),
      queueOf({ running: [answer(100, LOW), prompt(101, LOW)], waiting: [waiting(102, LOW)] }),
      // Who reads slowly has none.
      queueOf({ running: [answer(1, 0, { pending: 0 }), prompt(101, LOW)], waiting: [waiting(102, LOW)] }),
    ]) {
      expect(background(firstCome).plan(queue)).toEqual(firstCome.plan(queue));
    }
  });

  it("stands still beside an answer, but for a tenth of the time", () => {
    const queue = queueOf({
      running: [answer(1, 0), answer(100, LOW), prompt(101, LOW)],
      waiting: [waiting(102, LOW)],
    });
    const run = steps(queue, 1000, 5);
    expect(run.every((plan) => plan.work.some(({ id }) => id === 1))).toBe(true);
    expect(run.filter(rides).length).toBeGreaterThan(95);
    expect(run.filter(rides).length).toBeLessThan(105);
    expect(rides(run[0]!)).toBe(false);
  });

  it("brings its prompts beside answers in short slices", () => {
    const queue = queueOf({ running: [answer(1, 0), prompt(100, LOW, 5000)] });
    const ridden = steps(queue, 40, 5).filter(rides);
    expect(ridden.length).toBeGreaterThan(0);
    for (const { work } of ridden) expect(work).toContainEqual({ id: 100, tokens: 32, outputs: 0 });
  });

  it("is out of the way of prompts, until it has stood still for long", () => {
    const queue = queueOf({ running: [prompt(1, 0, 1e6), answer(100, LOW)] });
    const run = steps(queue, 300, 100);
    const first = run.findIndex(rides);
    expect(first).toBe(200);
    expect(run.slice(0, 200).some(rides)).toBe(false);
    // And goes on at its share.
    expect(run.filter(rides).length).toBeLessThan(12);
  });

  it("gives its places to others, and begins nothing", () => {
    const running = [100, 101, 102, 103].map((id) => answer(id, LOW, { movable: true, pages: 3 }));
    const queue = queueOf({ running, waiting: [waiting(1, 0), waiting(104, LOW)] });
    const plan = background(preempt(firstCome)).plan(queue);
    expect(plan.admit).toEqual([1]);
    expect(plan.putAway).toHaveLength(1);
    expect(idsOf(plan)).toEqual([1]);
  });

  it("goes on where somebody waits for what it runs", () => {
    const heldUp = { ...prompt(1, 0, 0) };
    const queue = queueOf({ running: [answer(2, 0), heldUp, prompt(100, LOW)] });
    expect(idsOf(background(firstCome).plan(queue))).toEqual([100, 2]);
    const before = queueOf({ running: [answer(2, 0), prompt(100, LOW)], waiting: [waiting(1, 0, 0)] });
    expect(idsOf(background(firstCome).plan(before))).toContain(100);
  });

  it("saves nothing up while it has the machine", () => {
    const scheduler = background(firstCome);
    const alone = queueOf({ running: [answer(100, LOW)] });
    const beside = queueOf({ running: [answer(1, 0), answer(100, LOW)] });
    steps(beside, 9, 100, scheduler);
    steps(alone, 5, 100, scheduler);
    expect(rides(steps(beside, 1, 5, scheduler)[0]!)).toBe(false);
  });
});
