/**
 * Work that nobody waits for, at the lowest priority: it has the machine to itself when there is nothing else, and a
 * small share of the time when there is. Priorities alone order only who begins; once begun, a batch's answers would
 * lengthen every step, and its prompts would stand between the tokens of somebody who reads along.
 */
import type { Job, Plan, Queue, RunningRequest, Scheduler } from "./contract.js";

/** Jobs of this priority, the lowest that there is, are background. */
export const BACKGROUND = -100;
/** Of the time in which others have work. */
const SHARE = 0.1;
/** Most time that is saved up, in milliseconds; who has so much to claim is not put off any longer. */
const MOST_SAVED_MS = 2000;
/** Most tokens of background prompts beside somebody's answer. */
const SLICE = 32;

/**
 * `inner`, with background jobs standing still while others have work, but for a tenth of the time: then they ride beside
 * answers, their prompts in short slices; beside prompts only when they have stood still for long. Where one of the others
 * waits for a prefix that a background job runs, that goes on as if it were theirs.
 */
export function background(inner: Scheduler): Scheduler {
  /** Milliseconds that background jobs may claim; below 0 they had more. */
  let saved = 0;
  /** How the step under way is paid for. */
  let step: "saves" | "spends" | "neither" = "neither";

  const mayRide = ({ waiting, running }: Queue): boolean => {
    if (saved >= MOST_SAVED_MS) return true;
    const prompts = waiting.some((job) => !isBackground(job)) || running.some(hasPrompt);
    return saved > 0 && !prompts;
  };

  return {
    name: `${inner.name}, background apart`,

    plan(queue): Plan {
      if (!isContended(queue) || isWaitedFor(queue)) return inner.plan(queue);
      const { waiting, running, limits } = queue;
      if (mayRide(queue)) {
        const maxTokensBesideDecode = Math.min(limits.maxTokensBesideDecode, SLICE);
        const sliced = running.some(hasPrompt) ? limits : { ...limits, maxTokensBesideDecode };
        return inner.plan({ ...queue, limits: sliced });
      }
      return inner.plan({
        ...queue,
        waiting: waiting.filter((job) => !isBackground(job)),
        running: running.map((job) => (isBackground(job) ? standStill(job) : job)),
      });
    },

    commit(queue, plan) {
      inner.commit?.(queue, plan);
      if (!isContended(queue)) {
        step = "neither";
        saved = 0;
        return;
      }
      const ours = new Set([...queue.waiting, ...queue.running].filter(isBackground).map(({ id }) => id));
      step = plan.work.some(({ id }) => ours.has(id)) ? "spends" : "saves";
    },

    ran(ms) {
      inner.ran?.(ms);
      if (step === "saves") saved = Math.min(MOST_SAVED_MS, saved + ms * SHARE);
      if (step === "spends") saved -= ms * (1 - SHARE);
    },
  };
}

const isBackground = ({ priority }: Job): boolean => priority !== undefined && priority <= BACKGROUND;

/** Whether there is work of both kinds. */
function isContended({ waiting, running }: Queue): boolean {
  const jobs = [...waiting, ...running];
  return (
    jobs.some(isBackground) && jobs.some((job) => !isBackground(job) && (job.pending > 0 || isHeldUp(job)))
  );
}

/** Whether one of the others may wait for a prefix that a background job runs. */
const isWaitedFor = ({ waiting, running }: Queue): boolean =>
  running.some(isBackground) && [...waiting, ...running].some((job) => !isBackground(job) && isHeldUp(job));

/** Waits for a prefix that another request runs; residents have none. */
const isHeldUp = (
  job: Job & { readonly pending: number; readonly phase?: RunningRequest["phase"] },
): boolean => job.pending === 0 && job.phase !== "decode" && !job.resident;

const hasPrompt = (job: RunningRequest): boolean =>
  !isBackground(job) && job.phase === "prefill" && job.pending > 0;

/** As it is, with nothing to do; it can still be put away. */
const standStill = (job: RunningRequest): RunningRequest => ({
  id: job.id,
  phase: job.phase,
  pending: 0,
  chunk: job.chunk,
  outputs: job.outputs,
  ...(job.client === undefined ? {} : { client: job.client }),
  ...(job.priority === undefined ? {} : { priority: job.priority }),
  ...(job.arrivedAt === undefined ? {} : { arrivedAt: job.arrivedAt }),
  ...(job.pages === undefined ? {} : { pages: job.pages }),
  ...(job.movable === undefined ? {} : { movable: job.movable }),
  ...(job.resident === undefined ? {} : { resident: job.resident }),
});
