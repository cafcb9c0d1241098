/**
 * Higher priorities first, and nobody starves: a level of priority of which nobody was admitted for `ageingMs`, although
 * somebody waits, counts one level higher, after twice that two, until one of them is admitted. It is the level that
 * ages and not each request, so that among equals the order stays what it was (fair turns, say), and a flood of old
 * requests does not come before all that is new.
 */
import type { Job, Plan, Queue, RunningRequest, Scheduler } from "./contract.js";

/**
 * `inner`, with those who wait by priority, equal ones in the order that they had. A prompt under way stands back where
 * one of a higher priority can begin; it ages by itself.
 */
export function byPriority(inner: Scheduler, ageingMs: number): Scheduler {
  /** Of levels at which somebody waits: when one of them was admitted last, or began to wait. */
  let since = new Map<number, number>();
  const aged = (priority: number, ms: number) => priority + Math.floor(ms / ageingMs);

  const plan = (queue: Queue): Plan => {
    const { now } = queue;
    if (![...queue.waiting, ...queue.running].some((job) => priorityOf(job) !== 0)) return inner.plan(queue);
    const levels = new Map<number, number>();
    for (const level of new Set(queue.waiting.map(priorityOf))) {
      levels.set(level, aged(level, now - (since.get(level) ?? now)));
    }
    const waiting = queue.waiting.toSorted((a, b) => levels.get(priorityOf(b))! - levels.get(priorityOf(a))!);
    const levelOf = (job: Job) => aged(priorityOf(job), now - (job.arrivedAt ?? now));
    const running = queue.running.toSorted((a, b) => levelOf(b) - levelOf(a));
    const best = Math.max(...waiting.map(priorityOf));
    const isBehind = (job: RunningRequest) =>
      job.phase === "prefill" && job.pending > 0 && levelOf(job) < best;
    if (running.some(isBehind)) {
      const standing = running.map((job) => (isBehind(job) ? standStill(job) : job));
      const ahead = inner.plan({ ...queue, waiting, running: standing });
      if (ahead.admit.length > 0) return ahead;
    }
    return inner.plan({ ...queue, waiting, running });
  };

  return {
    name: `by priority, ${inner.name}`,

    plan,

    commit(queue, plan) {
      inner.commit?.(queue, plan);
      const admitted = new Set(plan.admit);
      const served = new Set(queue.waiting.filter(({ id }) => admitted.has(id)).map(priorityOf));
      const next = new Map<number, number>();
      for (const job of queue.waiting) {
        const level = priorityOf(job);
        if (admitted.has(job.id)) continue;
        next.set(level, served.has(level) ? queue.now : (since.get(level) ?? queue.now));
      }
      since = next;
    },

    ran: (ms) => inner.ran?.(ms),
  };
}

const priorityOf = ({ priority }: Job): number => priority ?? 0;

const standStill = ({ id, phase, chunk, outputs, resident = false }: RunningRequest): RunningRequest => ({
  id,
  phase,
  chunk,
  outputs,
  resident,
  pending: 0,
});
