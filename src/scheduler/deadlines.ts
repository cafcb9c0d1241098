/** Deadlines: what is of no use any more ends, and `inner` plans for the others as if it were gone. */
import type { Job, Scheduler } from "./contract.js";

export function deadlines(inner: Scheduler): Scheduler {
  return {
    name: `${inner.name}, with deadlines`,

    plan(queue) {
      const isOver = ({ deadline }: Job) => deadline !== undefined && deadline <= queue.now;
      const expire = [...queue.waiting, ...queue.running].filter(isOver).map(({ id }) => id);
      if (expire.length === 0) return inner.plan(queue);
      const inTime = (job: Job) => !isOver(job);
      const rest = { ...queue, waiting: queue.waiting.filter(inTime), running: queue.running.filter(inTime) };
      return { ...inner.plan(rest), expire };
    },

    commit: (queue, plan) => inner.commit?.(queue, plan),
    ran: (ms) => inner.ran?.(ms),
  };
}
