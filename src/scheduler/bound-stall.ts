/**
 * Stall-free batching as a promise (Sarathi-Serve, arXiv 2403.02310, whose chunk is a constant that somebody must
 * tune): prompts ride beside decoding in chunks just so long that no running answer waits longer than the bound for its
 * next token, by a cost model that is measured while running.
 *
 * Chunks then depend on time. Answers do not, since a chunk's length never changes a token's value.
 */
import type { Plan, Queue, Scheduler } from "./contract.js";
import { CostModel } from "./cost-model.js";
import { shapeOf } from "./step-shape.js";

/**
 * Chunks are multiples of this: kernels take that many rows together at a good rate (16 at the best one). Also the least
 * progress of a step, so as small as it can be: what it costs is what the shortest bound is that can be kept.
 */
const QUANTUM = 8;

/** What became of the promise. Gaps are those between two tokens of answers that never had to wait for their reader. */
export interface StallReport {
  readonly boundMs: number;
  /** Steps that ran a prompt's tokens beside decoding. */
  readonly steps: number;
  /** The longest gap of such a step, and how many exceeded the bound. */
  readonly longestMs: number;
  readonly exceeded: number;
  /** How many of them were planned although not even the least chunk was likely to stay within the bound. */
  readonly hopeless: number;
  /** The gap that was expected when that happened last; null where it never did: the bound is too short for this machine. */
  readonly hopelessMs: number | null;
}

export interface BoundedScheduler extends Scheduler {
  report(): StallReport;
}

/**
 * `inner`, with as much prefill beside decoding as keeps the gap between two tokens under `boundMs`: the time since the
 * last step plus what this one is predicted to take, times the margin of earlier predictions. Until it knows better,
 * chunks start small and at most double.
 *
 * Some prefill runs in any case, so that no prompt starves: where not even the least chunk fits, it runs and counts as
 * `hopeless` in the report.
 */
export function boundStall(inner: Scheduler, boundMs: number): BoundedScheduler {
  const cost = new CostModel();
  let report: StallReport = { boundMs, steps: 0, longestMs: 0, exceeded: 0, hopeless: 0, hopelessMs: null };
  /** Of the step under way. */
  let current = { shape: shapeOf([], EMPTY), sinceStep: 0, expectedMs: 0 };

  const planWith = (queue: Queue, maxTokensBesideDecode: number): Plan =>
    inner.plan({ ...queue, limits: { ...queue.limits, maxTokensBesideDecode } });
  const gapOf = (queue: Queue, { work }: Plan): number =>
    queue.sinceStep + cost.predict(shapeOf(work, queue)) * cost.margin;

  return {
    name: `${inner.name}, stalls within ${boundMs} ms`,

    plan(queue) {
      const most = queue.limits.maxTokensBesideDecode;
      const known = Math.max(QUANTUM, 2 * cost.mostPrefill);
      let plan = planWith(queue, Math.min(most, known));
      if (!isMixed(queue, plan) || gapOf(queue, plan) <= boundMs) return plan;
      // The most that fits, by halving: a longer chunk never takes less time.
      let [low, high] = [1, Math.ceil(Math.min(most, known) / QUANTUM)];
      plan = planWith(queue, Math.min(most, QUANTUM));
      while (high - low > 1) {
        const middle = Math.floor((low + high) / 2);
        const tried = planWith(queue, middle * QUANTUM);
        if (gapOf(queue, tried) <= boundMs) [low, plan] = [middle, tried];
        else high = middle;
      }
      return plan;
    },

    commit(queue, plan) {
      inner.commit?.(queue, plan);
      const expectedMs = isMixed(queue, plan) ? gapOf(queue, plan) : 0;
      current = { shape: shapeOf(plan.work, queue), sinceStep: queue.sinceStep, expectedMs };
    },

    ran(ms) {
      inner.ran?.(ms);
      const { shape, sinceStep, expectedMs } = current;
      cost.observe(shape, ms);
      if (shape.decodeRows === 0 || shape.prefillTokens === 0) return;
      const gap = sinceStep + ms;
      const isHopeless = expectedMs > boundMs;
      report = {
        boundMs,
        steps: report.steps + 1,
        longestMs: Math.max(report.longestMs, gap),
        exceeded: report.exceeded + (gap > boundMs ? 1 : 0),
        hopeless: report.hopeless + (isHopeless ? 1 : 0),
        hopelessMs: isHopeless ? expectedMs : report.hopelessMs,
      };
    },

    report: () => report,
  };
}

const EMPTY: Pick<Queue, "running" | "waiting"> = { running: [], waiting: [] };

/** Whether a plan lets somebody decode beside somebody's prompt. */
function isMixed(queue: Queue, { work }: Plan): boolean {
  const decoding = new Set(queue.running.filter(({ phase }) => phase === "decode").map(({ id }) => id));
  const decodes = work.filter(({ id }) => decoding.has(id)).length;
  return decodes > 0 && decodes < work.length;
}
