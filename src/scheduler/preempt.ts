/**
 * Preemption by demotion: where the first in the line finds no place or no pages, running requests of lower priority
 * are put away to make room, the lowest and newest first. They wait in the line again, and nothing is computed twice.
 */
import type { Job, Plan, Scheduler } from "./contract.js";

export function preempt(inner: Scheduler): Scheduler {
  return {
    name: `${inner.name}, with preemption`,

    plan(queue): Plan {
      const { waiting, running, limits, freePages } = queue;
      const plan = inner.plan(queue);
      const first = waiting.find(({ resident }) => !resident);
      if (!first || plan.admit.includes(first.id)) return plan;
      const lower = running.filter((job) => job.movable && priorityOf(job) < priorityOf(first));
      lower.sort((a, b) => priorityOf(a) - priorityOf(b) || (b.arrivedAt ?? 0) - (a.arrivedAt ?? 0));
      const putAway: number[] = [];
      let places = limits.maxSequences - running.filter(({ resident }) => !resident).length;
      let pages = freePages;
      for (const job of lower) {
        if (places > 0 && pages >= first.pages) break;
        putAway.push(job.id);
        places += 1;
        pages += job.pages ?? 0;
      }
      if (putAway.length === 0 || places <= 0 || pages < first.pages) return plan;
      const rest = running.filter(({ id }) => !putAway.includes(id));
      return { ...inner.plan({ ...queue, running: rest, freePages: pages }), putAway };
    },

    commit: (queue, plan) => inner.commit?.(queue, plan),
    ran: (ms) => inner.ran?.(ms),
  };
}

const priorityOf = ({ priority }: Job): number => priority ?? 0;
