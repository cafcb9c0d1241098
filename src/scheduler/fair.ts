/**
 * Fairness between clients (Virtual Token Counter: "Fairness in Serving Large Language Models", arXiv 2401.00588). Each
 * client has a counter of what was done for it; of those who wait, the one with the least goes next, with its oldest
 * request. Nothing is saved up by asking for nothing: a client that comes (back) starts no lower than the least of those
 * who wait. Between two clients who both wait all the time, what is done differs by no more than what a full engine
 * holds, however many requests each of them sends.
 */
import type { Job, Queue, Scheduler, WaitingRequest } from "./contract.js";

/** What a client's counter rises by: for a token of a prompt, when it is admitted, and for one that is generated. */
const PROMPT_TOKEN = 1;
const ANSWER_TOKEN = 2;

/** `inner`, with those who wait in the order of fair turns: the order in which they came, while there is one client. */
export function fair(inner: Scheduler): Scheduler {
  /** Of those who wait or run, and of those who would start with more than somebody new. */
  let counters = new Map<string, number>();
  /** Clients that were left waiting at the last commit: they are not new. */
  let known = new Set<string>();
  /** Counter of whoever left the line last. */
  let level = 0;

  /** Counters of those who wait; newcomers are lifted. */
  const countersOf = (waiting: readonly WaitingRequest[]): Map<string, number> => {
    const found = new Map(waiting.map((job) => [clientOf(job), counters.get(clientOf(job)) ?? 0]));
    const stayed = [...found].filter(([client]) => known.has(client)).map(([, counter]) => counter);
    const start = stayed.length > 0 ? least(stayed) : level;
    for (const [client, counter] of found) {
      if (!known.has(client)) found.set(client, Math.max(counter, start));
    }
    return found;
  };

  return {
    name: `fair, ${inner.name}`,

    plan: (queue) => inner.plan(inTurn(queue, countersOf(queue.waiting))),

    commit(queue, plan) {
      inner.commit?.(queue, plan);
      for (const [client, counter] of countersOf(queue.waiting)) counters.set(client, counter);
      const waiting = new Map(queue.waiting.map((job) => [job.id, job]));
      const jobs = new Map<number, Job>(waiting);
      for (const job of queue.running) jobs.set(job.id, job);
      const charge = (job: Job, cost: number) => {
        counters.set(clientOf(job), (counters.get(clientOf(job)) ?? 0) + cost);
      };
      for (const id of plan.admit) {
        const job = waiting.get(id)!;
        waiting.delete(id);
        charge(job, job.pending * PROMPT_TOKEN);
        level = counters.get(clientOf(job))!;
      }
      for (const { id, outputs } of plan.work) {
        const job = jobs.get(id)!;
        // Rows of scorings belong to their prompts, which are paid for.
        if (job.outputs === "last" && outputs > 0) charge(job, ANSWER_TOKEN);
      }
      known = new Set([...waiting.values()].map(clientOf));
      const present = new Set([...jobs.values()].map(clientOf));
      const start = known.size > 0 ? least([...known].map((client) => counters.get(client)!)) : level;
      counters = new Map([...counters].filter(([client, counter]) => present.has(client) || counter > start));
    },

    ran: (ms) => inner.ran?.(ms),
  };
}

/** Those who name no client are one. */
const clientOf = ({ client }: Job): string => client ?? "";

const least = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b));

/** Each request in the place that it gets where the client with the least counter always goes next. */
function inTurn(queue: Queue, counters: ReadonlyMap<string, number>): Queue {
  if (counters.size < 2) return queue;
  const next = new Map(counters);
  const turns = queue.waiting.map((job) => {
    const turn = next.get(clientOf(job))!;
    next.set(clientOf(job), turn + (job.promptTokens ?? job.pending) * PROMPT_TOKEN);
    return { job, turn };
  });
  turns.sort((a, b) => a.turn - b.turn);
  return { ...queue, waiting: turns.map(({ job }) => job) };
}
