import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { boundStall } from "./bound-stall.js";
import type { Limits, Phase, Queue, Scheduler } from "./contract.js";
import { firstCome } from "./first-come.js";
import { type StepShape, shapeOf } from "./step-shape.js";

const limits: Limits = { maxTokens: 512, maxTokensBesideDecode: 512, maxOutputs: 32, maxSequences: 16 };

/** Milliseconds of a machine that is known here, and is not a sum: few rows cost as much as sixteen. */
const machine = (s: StepShape) =>
  20 +
  Math.max(16, s.decodeRows + s.prefillTokens) * 0.5 +
  2 * (s.decodeRows + s.prefillOutputs) +
  0.0002 * (s.decodeReads + s.prefillReads);

interface Seat {
  readonly id: number;
  phase: Phase;
  pending: number;
  cached: number;
  toGenerate: number;
  lastAt: number;
}

interface Scene {
  readonly scheduler: Scheduler;
  readonly noise: (random: TestRandom) => number;
  /** Milliseconds between two steps. */
  readonly between?: (random: TestRandom) => number;
  readonly prompts?: number;
  readonly ms?: (s: StepShape) => number;
}

/** Eight streams decode while long prompts arrive, one after another. Returns every gap between two tokens. */
function play({ scheduler, noise, between = () => 0, prompts = 3, ms = machine }: Scene) {
  const random = new TestRandom(11);
  const waiting: (Seat & { pages: number })[] = [];
  const running: Seat[] = [];
  let id = 0;
  const arrive = (pending: number, toGenerate: number) =>
    waiting.push({
      id: id++,
      phase: "prefill",
      pending,
      cached: 0,
      toGenerate,
      pages: 0,
      lastAt: Number.NaN,
    });
  for (let i = 0; i < 8; i++) arrive(20, Infinity);
  const gaps: number[] = [];
  const chunks: number[] = [];
  let now = 1000;
  let steppedAt = now;
  let steps = 0;
  let left = prompts;
  while (left > 0 || waiting.length > 0 || running.length > 8) {
    if (++steps > 20_000) throw new Error("A prompt starves.");
    now += between(random);
    if (left > 0 && steps >= 40 && running.length === 8 && waiting.length === 0) {
      arrive(4000, 4);
      left--;
    }
    const view = (list: readonly Seat[]) =>
      list.map((seat) => Object.freeze({ ...seat, chunk: Infinity, outputs: "last" as const, pages: 0 }));
    const queue: Queue = {
      waiting: view(waiting),
      running: view(running),
      limits,
      freePages: 100,
      now,
      sinceStep: now - steppedAt,
    };
    const plan = scheduler.plan(queue);
    scheduler.commit?.(queue, plan);
    for (const admitted of plan.admit) {
      const at = waiting.findIndex((seat) => seat.id === admitted);
      running.push(...waiting.splice(at, 1));
    }
    const shape = shapeOf(plan.work, queue);
    if (shape.decodeRows > 0 && shape.prefillTokens > 0) chunks.push(shape.prefillTokens);
    const took = ms(shape) * noise(random);
    now += took;
    scheduler.ran?.(took);
    steppedAt = now;
    for (const { id: worked, tokens, outputs } of plan.work) {
      const seat = running.find((each) => each.id === worked)!;
      seat.pending -= tokens;
      seat.cached += tokens;
      if (outputs === 0) continue;
      if (seat.phase === "decode") gaps.push(now - seat.lastAt);
      seat.lastAt = now;
      seat.phase = "decode";
      seat.pending = 1;
      if (--seat.toGenerate === 0) running.splice(running.indexOf(seat), 1);
    }
  }
  return { gaps, chunks, steps, longest: Math.max(...gaps) };
}

const exact = () => 1;
const noisy = (random: TestRandom) => 1 + 0.15 * (2 * random.next() - 1);

describe("boundStall", () => {
  it("keeps every gap under the bound on a machine with known costs; without it, gaps are far longer", () => {
    const without = play({ scheduler: firstCome, noise: exact });
    expect(without.longest).toBeGreaterThan(250);
    const scheduler = boundStall(firstCome, 120);
    const { longest, chunks } = play({ scheduler, noise: exact });
    expect(longest).toBeLessThanOrEqual(120);
    expect(scheduler.report()).toMatchObject({ exceeded: 0, hopeless: 0, hopelessMs: null });
    // And uses the room that there is: 120 ms hold about 130 tokens beside eight streams.
    expect(Math.max(...chunks)).toBeGreaterThanOrEqual(96);
  });

  it("keeps it through noise of 15 % in every step", () => {
    const without = play({ scheduler: firstCome, noise: noisy });
    expect(without.longest).toBeGreaterThan(250);
    const scheduler = boundStall(firstCome, 150);
    const { longest, chunks } = play({ scheduler, noise: noisy, prompts: 10 });
    expect(longest).toBeLessThanOrEqual(150);
    expect(scheduler.report().exceeded).toBe(0);
    expect(scheduler.report().longestMs).toBeCloseTo(longest, 6);
    expect(Math.max(...chunks)).toBeGreaterThanOrEqual(64);
  });

  it("counts the time between steps", () => {
    const between = (random: TestRandom) => 30 * random.next();
    const { longest } = play({ scheduler: boundStall(firstCome, 150), noise: noisy, between });
    expect(longest).toBeLessThanOrEqual(150);
  });

  it("exceeds it only where the system interrupts", () => {
    let interrupted = 0;
    const hiccup = (random: TestRandom) => {
      if (random.next() >= 0.02) return noisy(random);
      interrupted++;
      return 4;
    };
    const scheduler = boundStall(firstCome, 150);
    play({ scheduler, noise: hiccup, prompts: 5 });
    const { exceeded, steps } = scheduler.report();
    expect(exceeded).toBeGreaterThan(0);
    expect(exceeded).toBeLessThanOrEqual(interrupted);
    expect(exceeded / steps).toBeLessThan(0.05);
  });

  it("lets prompts go on where the bound cannot be kept, and says so", () => {
    const scheduler = boundStall(firstCome, 5);
    const { chunks, steps } = play({ scheduler, noise: exact, prompts: 1 });
    expect(Math.min(...chunks.slice(0, -1))).toBe(8);
    expect(steps).toBeLessThan(650);
    const report = scheduler.report();
    expect(report.hopeless).toBeGreaterThan(200);
    expect(report.exceeded).toBe(report.steps);
    expect(report.hopelessMs).toBeGreaterThan(40);
  });

  it("follows a machine that slows down", () => {
    let slow = 1;
    const scheduler = boundStall(firstCome, 150);
    play({ scheduler, noise: exact, ms: (s) => machine(s) * slow });
    slow = 1.5;
    const before = scheduler.report().exceeded;
    play({ scheduler, noise: exact, ms: (s) => machine(s) * slow });
    expect(scheduler.report().exceeded - before).toBeLessThan(12);
  });

  it("begins with a small chunk and at most doubles it while it knows nothing", () => {
    const { chunks } = play({ scheduler: boundStall(firstCome, 1e6), noise: exact, prompts: 1 });
    // The eight first prompts have run in one step, of 160 tokens.
    expect(chunks[0]).toBeLessThanOrEqual(320);
    // What eight streams leave of a step.
    expect(chunks[1]).toBe(504);
  });

  it("plans as the scheduler inside where nobody decodes, or nothing is to be prefilled", () => {
    const scheduler = boundStall(firstCome, 1);
    const job = { chunk: Infinity, outputs: "last" as const, pages: 1 };
    const base = { limits, freePages: 10, now: 0, sinceStep: 0 };
    const fresh: Queue = { ...base, running: [], waiting: [{ ...job, id: 1, pending: 900 }] };
    expect(scheduler.plan(fresh)).toEqual(firstCome.plan(fresh));
    const decoding: Queue = {
      ...base,
      running: [{ ...job, id: 1, phase: "decode", pending: 1 }],
      waiting: [],
    };
    expect(scheduler.plan(decoding)).toEqual(firstCome.plan(decoding));
  });
});
