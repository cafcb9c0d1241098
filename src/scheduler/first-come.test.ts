import { describe, expect, it } from "vitest";
import { queuesWithin } from "../../test/support/queue.js";
import { TestRandom } from "../../test/support/random.js";
import type { Limits, Phase, Queue, RunningRequest, WaitingRequest } from "./contract.js";
import { firstCome } from "./first-come.js";

const limits: Limits = { maxTokens: 32, maxTokensBesideDecode: 8, maxOutputs: 8, maxSequences: 4 };

const waiting = (id: number, pending: number, pages = 1): WaitingRequest => ({
  id,
  pending,
  chunk: Infinity,
  outputs: "last",
  pages,
});

const running = (id: number, phase: Phase, pending: number): RunningRequest => ({
  id,
  phase,
  pending,
  chunk: Infinity,
  outputs: "last",
});

const plan = (queue: Partial<Queue>) => firstCome.plan(queuesWithin(limits)(queue));

describe("first-come", () => {
  it("plans nothing for nobody", () => {
    expect(plan({})).toEqual({ admit: [], work: [] });
  });

  it("cuts a prompt to the step and asks for logits of its last token only", () => {
    expect(plan({ waiting: [waiting(1, 40)] }).work).toEqual([{ id: 1, tokens: 32, outputs: 0 }]);
    expect(plan({ waiting: [waiting(1, 32)] }).work).toEqual([{ id: 1, tokens: 32, outputs: 1 }]);
  });

  it("decodes first, and lets prompts ride along in a shorter chunk", () => {
    const queue = { running: [running(1, "prefill", 20), running(2, "decode", 1)], waiting: [waiting(3, 5)] };
    expect(plan(queue)).toEqual({
      admit: [],
      work: [
        { id: 2, tokens: 1, outputs: 1 },
        { id: 1, tokens: 8, outputs: 0 },
      ],
    });
  });

  it("fills a step with several prompts in order of arrival", () => {
    expect(plan({ waiting: [waiting(1, 20), waiting(2, 20), waiting(3, 20)] })).toEqual({
      admit: [1, 2],
      work: [
        { id: 1, tokens: 20, outputs: 1 },
        { id: 2, tokens: 12, outputs: 0 },
      ],
    });
  });

  it("lets nobody overtake a request that does not fit yet", () => {
    expect(plan({ waiting: [waiting(1, 5, 101), waiting(2, 5, 1)] })).toEqual({ admit: [], work: [] });
  });

  it("leaves the paused alone, and their places taken", () => {
    const busy = [1, 2, 3, 4].map((id) => running(id, "decode", 0));
    expect(plan({ running: busy, waiting: [waiting(5, 1)] })).toEqual({ admit: [], work: [] });
  });

  it("cuts a scored prompt by the rows of logits that are left, and any prompt by its own limit", () => {
    const scored: WaitingRequest = { ...waiting(1, 30), outputs: "all" };
    expect(plan({ waiting: [scored] }).work).toEqual([{ id: 1, tokens: 8, outputs: 8 }]);
    const slow: WaitingRequest = { ...waiting(1, 30), chunk: 3 };
    expect(plan({ waiting: [slow] }).work).toEqual([{ id: 1, tokens: 3, outputs: 0 }]);
  });

  it("holds back a prompt's last token where no row of logits is left for it", () => {
    const scored: RunningRequest = { ...running(1, "prefill", 30), outputs: "all" };
    expect(plan({ running: [scored, running(2, "prefill", 5)] }).work).toEqual([
      { id: 1, tokens: 8, outputs: 8 },
      { id: 2, tokens: 4, outputs: 0 },
    ]);
  });
});

/** Plays random arrivals, pauses and cancellations, and holds every plan to what a plan must be. */
describe("first-come under random arrivals", () => {
  interface Job {
    id: number;
    phase: Phase;
    pending: number;
    chunk: number;
    outputs: "last" | "all";
    pages: number;
    toGenerate: number;
  }

  it.each([1, 2, 3, 4])("seed %i", (seed) => {
    const random = new TestRandom(seed);
    const below = (n: number) => random.below(n);
    const totalPages = 20;
    const line: Job[] = [];
    const active: Job[] = [];
    const admitted: number[] = [];
    const finished = new Set<number>();
    const cancelled = new Set<number>();
    let nextId = 1;
    const LAST = 100;

    for (let step = 0; nextId <= LAST || line.length + active.length > 0; step++) {
      if (step > 20_000) throw new Error("Somebody starves");
      if (nextId <= LAST && random.next() < 0.2) {
        const outputs = random.next() < 0.2 ? "all" : "last";
        line.push({
          id: nextId++,
          phase: "prefill",
          pending: 1 + below(100),
          chunk: random.next() < 0.3 ? 1 + below(10) : Infinity,
          outputs,
          pages: 1 + below(totalPages),
          toGenerate: outputs === "all" ? 0 : 1 + below(30),
        });
      }
      if (random.next() < 0.01) {
        const list = random.next() < 0.5 ? line : active;
        const gone = list.splice(below(list.length), 1)[0];
        if (gone) cancelled.add(gone.id);
      }
      const paused = new Set(active.filter(() => random.next() < 0.1).map(({ id }) => id));
      const held = active.reduce((sum, { pages }) => sum + pages, 0);
      // Frozen: planning that mutated anything would throw.
      const queue: Queue = {
        waiting: Object.freeze(line.map((job) => Object.freeze({ ...job }))),
        running: Object.freeze(
          active.map((job) => Object.freeze(paused.has(job.id) ? { ...job, pending: 0 } : { ...job })),
        ),
        limits,
        freePages: totalPages - held,
        now: step,
        sinceStep: 0,
      };
      const { admit, work } = firstCome.plan(queue);

      // Admission: the head of the line, in order, within pages and places.
      expect(admit).toEqual(line.slice(0, admit.length).map(({ id }) => id));
      for (const job of line.splice(0, admit.length)) {
        active.push(job);
        admitted.push(job.id);
      }
      expect(active.reduce((sum, { pages }) => sum + pages, 0)).toBeLessThanOrEqual(totalPages);
      expect(active.length).toBeLessThanOrEqual(limits.maxSequences);

      // Work: each request once, within the limits of the step and of the request.
      expect(new Set(work.map(({ id }) => id)).size).toBe(work.length);
      expect(work.reduce((sum, { tokens }) => sum + tokens, 0)).toBeLessThanOrEqual(limits.maxTokens);
      expect(work.reduce((sum, { outputs }) => sum + outputs, 0)).toBeLessThanOrEqual(limits.maxOutputs);
      for (const job of active) {
        const share = work.find(({ id }) => id === job.id);
        if (paused.has(job.id)) expect(share).toBeUndefined();
        else if (job.phase === "decode") expect(share).toEqual({ id: job.id, tokens: 1, outputs: 1 });
        if (!share) continue;
        expect(share.tokens).toBeGreaterThan(0);
        expect(share.tokens).toBeLessThanOrEqual(Math.min(job.pending, job.chunk));
        const ends = share.tokens === job.pending;
        expect(share.outputs).toBe(job.outputs === "all" ? share.tokens : ends ? 1 : 0);
      }

      const runnable = active.some(({ id }) => !paused.has(id));
      if (runnable) expect(work.length).toBeGreaterThan(0);

      for (const { id, tokens, outputs } of work) {
        const job = active.find((candidate) => candidate.id === id)!;
        job.pending -= tokens;
        if (job.pending > 0) continue;
        if (outputs > 0 && job.toGenerate-- > 0) {
          job.phase = "decode";
          job.pending = 1;
        } else {
          active.splice(active.indexOf(job), 1);
          finished.add(id);
        }
      }
    }

    // Who was not cancelled has finished, and admission followed arrival.
    for (let id = 1; id <= LAST; id++) expect(finished.has(id) || cancelled.has(id)).toBe(true);
    expect(admitted).toEqual([...admitted].sort((a, b) => a - b));
    expect(finished.size).toBeGreaterThan(LAST / 2);
  });
});
