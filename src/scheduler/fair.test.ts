import { describe, expect, it } from "vitest";
import { queuesWithin } from "../../test/support/queue.js";
import { TestRandom } from "../../test/support/random.js";
import type { Limits, RunningRequest, Scheduler, WaitingRequest } from "./contract.js";
import { fair } from "./fair.js";
import { firstCome } from "./first-come.js";

const limits: Limits = { maxTokens: 64, maxTokensBesideDecode: 64, maxOutputs: 16, maxSequences: 4 };

const waiting = (id: number, client: string | undefined, pending = 10): WaitingRequest => ({
  id,
  pending,
  chunk: Infinity,
  outputs: "last",
  pages: 1,
  ...(client === undefined ? {} : { client }),
});

const queueOf = queuesWithin(limits);

/** A small engine: all requests generate `answer` tokens. Tells after each step what each client was served. */
class Play {
  readonly scheduler: Scheduler;
  readonly served = new Map<string, number>();
  readonly ended: number[] = [];
  readonly line: WaitingRequest[] = [];
  readonly active: (RunningRequest & { left: number })[] = [];
  #nextId = 1;

  constructor(scheduler: Scheduler) {
    this.scheduler = scheduler;
  }

  send(client: string, pending: number): number {
    this.line.push(waiting(this.#nextId, client, pending));
    return this.#nextId++;
  }

  step(answer: (id: number) => number): void {
    const queue = queueOf({ waiting: [...this.line], running: [...this.active] });
    const plan = this.scheduler.plan(queue);
    this.scheduler.commit?.(queue, plan);
    this.scheduler.ran?.(1);
    for (const id of plan.admit) {
      const [job] = this.line.splice(
        this.line.findIndex((each) => each.id === id),
        1,
      );
      this.#serve(job!.client!, job!.pending);
      this.active.push({ ...job!, phase: "prefill", left: answer(id) });
    }
    for (const { id, tokens, outputs } of plan.work) {
      const at = this.active.findIndex((each) => each.id === id);
      const job = this.active[at]!;
      let next = { ...job, pending: job.pending - tokens };
      if (outputs > 0) {
        this.#serve(job.client!, 2);
        next = { ...next, phase: "decode", pending: 1, left: job.left - 1 };
      }
      if (next.left === 0) {
        this.active.splice(at, 1);
        this.ended.push(id);
      } else this.active[at] = next;
    }
  }

  #serve(client: string, cost: number): void {
    this.served.set(client, (this.served.get(client) ?? 0) + cost);
  }
}

describe("fair", () => {
  it("is first-come while there is one client, or nobody names one", () => {
    const scheduler = fair(firstCome);
    for (const client of [undefined, "one"]) {
      const queue = queueOf({ waiting: [30, 5, 50, 2, 9].map((n, id) => waiting(id, client, n)) });
      expect(scheduler.plan(queue)).toEqual(firstCome.plan(queue));
      scheduler.commit?.(queue, scheduler.plan(queue));
    }
  });

  it("takes turns where one client has sent many and others came later", () => {
    const line = [..."aaaaaa", "b", "c"].map((client, id) => waiting(id, client));
    expect(fair(firstCome).plan(queueOf({ waiting: line })).admit).toEqual([0, 6, 7, 1]);
  });

  it("keeps the order within a client", () => {
    const line = [..."abab"].map((client, id) => waiting(id, client, id === 0 ? 50 : 1));
    expect(fair(firstCome).plan(queueOf({ waiting: line })).admit).toEqual([0, 1, 3, 2]);
  });

  it("serves clients who always wait alike, however many and long their requests: within what an engine holds", () => {
    const play = new Play(fair(firstCome));
    const random = new TestRandom(1);
    // One sends long prompts, one asks for long answers, one floods with small ones.
    const shapes: Record<string, [prompt: number, answer: number]> = { a: [60, 3], b: [5, 30], c: [8, 4] };
    const answers = new Map<number, number>();
    const top = (client: string, upTo: number) => {
      while (play.line.filter((job) => job.client === client).length < upTo) {
        const [prompt, answer] = shapes[client]!;
        answers.set(play.send(client, 1 + random.below(2 * prompt)), 1 + random.below(2 * answer));
      }
    };
    let worst = 0;
    for (let step = 0; step < 1500; step++) {
      top("a", 2);
      top("b", 2);
      top("c", 40);
      play.step((id) => answers.get(id)!);
      const served = [...play.served.values()];
      if (served.length === 3) worst = Math.max(worst, Math.max(...served) - Math.min(...served));
    }
    // The paper's bound: twice the larger of the longest prompt and all tokens that fit the engine.
    const longestPrompt = 120;
    const inEngine = 2 * limits.maxSequences * 60;
    expect(worst).toBeLessThan(2 * Math.max(longestPrompt, inEngine));
    expect(Math.min(...play.served.values())).toBeGreaterThan(5 * worst);
  });

  it("is not fair without: who floods takes nearly all", () => {
    const play = new Play(firstCome);
    for (let i = 0; i < 400; i++) play.send("c", 10);
    for (let step = 0; step < 150; step++) {
      if (play.line.filter(({ client }) => client === "a").length < 2) play.send("a", 10);
      play.step(() => 5);
    }
    expect(play.served.get("c")).toBeGreaterThan(500);
    expect(play.served.get("a")).toBeUndefined();
  });

  it("lets nobody save up turns: a client that was away begins where the others stand", () => {
    const play = new Play(fair(firstCome));
    play.send("away", 1);
    for (let step = 0; step < 200; step++) {
      while (play.line.length < 4) play.send("busy", 10);
      play.step(() => 5);
    }
    const before = play.served.get("busy")!;
    for (let step = 0; step < 100; step++) {
      for (const client of ["busy", "away"]) {
        while (play.line.filter((job) => job.client === client).length < 4) play.send(client, 10);
      }
      play.step(() => 5);
    }
    const busy = play.served.get("busy")! - before;
    const away = play.served.get("away")!;
    expect(Math.abs(busy - away)).toBeLessThan(0.2 * busy);
  });

  it("wastes nothing: whoever is alone gets all", () => {
    const [one, two] = [new Play(fair(firstCome)), new Play(firstCome)];
    for (const play of [one, two]) {
      for (let i = 0; i < 20; i++) play.send(i < 10 ? "a" : "b", 10);
      for (let step = 0; step < 400; step++) play.step(() => 5);
    }
    expect(one.ended).toHaveLength(20);
    expect(two.ended).toHaveLength(20);
  });

  it("plans without remembering: only a commit counts", () => {
    const scheduler = fair(firstCome);
    const queue = queueOf({ waiting: [..."aab"].map((client, id) => waiting(id, client)) });
    expect(scheduler.plan(queue)).toEqual(scheduler.plan(queue));
  });
});
