/**
 * The engine: requests in, tokens out. It owns the queue of what has work, asks the scheduler what to run, has it run,
 * and gives each task its logits. It knows nothing of threads and messages.
 */
import type { Program } from "../backends/contract.js";
import { pagesFor } from "../cache/layout.js";
import { MillraceError } from "../errors.js";
import type { StallReport } from "../scheduler/bound-stall.js";
import type { Limits, Queue, Scheduler } from "../scheduler/contract.js";
import { Batcher, type Share } from "./batch.js";
import type { PoolLease } from "./pool-lease.js";
import type { EngineUsage } from "./protocol.js";
import { type EngineRequest, Request } from "./request.js";
import type { Place, Task } from "./task.js";

/** What the engine is made of; it is itself the place of requests. */
export interface EngineParts extends Place {
  /** Compiled for `limits` and `layout`; it runs the sequences of other places too. */
  readonly program: Program;
  readonly scheduler: Scheduler;
  /** How the scheduler keeps its bound on stalls; absent: it has none. */
  readonly stalls?: () => StallReport | null;
  readonly limits: Limits;
  readonly vocabularySize: number;
  /** Which of the pool's pages it may use, where others use its memory too. */
  readonly lease?: PoolLease;
  /** Milliseconds that never go back. Default: the machine's. */
  readonly clock?: () => number;
}

export class Engine {
  readonly #parts: EngineParts;
  readonly #waiting: Task[] = [];
  readonly #running: Task[] = [];
  readonly #byId = new Map<number, Task>();
  readonly #requests = new Map<number, Request>();
  readonly #batcher: Batcher;
  /** Tokens that steps have run. */
  #ran = 0;
  /** A step is in the backend's hands: what takes part in it cannot be freed. */
  #underWay = false;
  /** What waits for the end of the step under way. */
  #deferred: (() => void)[] = [];
  readonly #clock: () => number;
  /** End of the step before; NaN where there was nothing to run since. */
  #steppedAt = Number.NaN;

  constructor(parts: EngineParts) {
    this.#parts = parts;
    this.#batcher = new Batcher(parts.program, parts, parts.limits);
    this.#clock = parts.clock ?? (() => performance.now());
  }

  usage(): EngineUsage {
    const pool = this.#parts.pool.usage();
    const prefix = this.#parts.prefix?.usage() ?? null;
    const evictable = prefix?.evictable ?? 0;
    return {
      ...pool,
      free: pool.free + evictable,
      used: pool.used - evictable,
      shared: prefix?.shared ?? pool.shared,
      waiting: this.#waiting.filter((task) => !rests(task)).length,
      running: this.#running.length,
      ran: this.#ran,
      stalls: this.#parts.stalls?.() ?? null,
      prefix,
    };
  }

  /**
   * Puts a request in the line; its listener hears the rest.
   * Throws INVALID_ARGUMENT for an empty prompt, INVALID_TOKEN for an id outside the vocabulary, PROMPT_TOO_LONG
   * where the whole cache could not hold `maxCached` tokens.
   */
  submit(request: EngineRequest): void {
    const { layout, pool } = this.#parts;
    if (request.prompt.length === 0) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The prompt has no tokens; give at least one (the model's tokenizer adds none of its own here).",
      );
    }
    this.checkTokens(request.prompt);
    const pages = pagesFor(layout, request.maxCached);
    if (pages > pool.numPages) {
      throw new MillraceError(
        "PROMPT_TOO_LONG",
        `The request needs a cache of ${request.maxCached} tokens (${pages} pages); the cache has ${pool.numPages} ` +
          "pages. Shorten the prompt, ask for fewer tokens, or open the model with more memory.",
        { tokens: request.maxCached, needed: pages, pages: pool.numPages },
      );
    }
    const queued = new Request(request, this.#parts, pages);
    this.#requests.set(queued.id, queued);
    this.enlist(queued);
  }

  /** Puts a task in the line, unless it is there already. */
  enlist(task: Task): void {
    if (this.#byId.has(task.id)) return;
    this.#byId.set(task.id, task);
    this.#toEndOfLine(task);
  }

  /** Lets request `id` give `emissions` more before it pauses. Unknown ids are those that have ended: no error. */
  grant(id: number, emissions: number): void {
    const request = this.#requests.get(id);
    if (request) request.credit += emissions;
  }

  /** Ends request `id` with "aborted" and frees its pages: now, or when the step under way is through. */
  cancel(id: number): void {
    const request = this.#requests.get(id);
    if (!request) return;
    if (this.#underWay) {
      request.cancelled = true;
      // Who takes no part in the step ends with it too.
      this.#deferred.push(() => this.#cancel(request));
    } else this.#cancel(request);
  }

  /** Fails every task with `error`; requests free their pages. Only between steps. */
  failAll(error: MillraceError): void {
    for (const task of [...this.#byId.values()]) this.#fail(task, error);
  }

  /** Milliseconds until the next deadline of a task in the line, at least 0; Infinity where none has one. */
  untilDeadline(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { deadline } of this.#byId.values()) next = Math.min(next, deadline ?? next);
    return Math.max(0, next - this.#clock());
  }

  /** Takes a task out of the line, wherever it stands, if it does: one that is done between steps asks for it. Only there. */
  withdraw(task: Task): void {
    this.#leave(task);
  }

  /** What `action` gives, which runs while no step is under way: now, or when the present one is through. */
  betweenSteps<T>(action: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const run = () => {
        try {
          resolve(action());
        } catch (error) {
          reject(error);
        }
      };
      if (this.#underWay) this.#deferred.push(run);
      else run();
    });
  }

  /**
   * One step; false where nothing could run: there is no task, or each one waits for its reader. Where those that could
   * run wait for the disk, it waits for the first.
   * A task that fails takes nobody with it; where the backend itself fails, all that ran in the batch do.
   */
  async step(): Promise<boolean> {
    this.lend();
    const startedAt = this.#clock();
    const numWaiting = this.#waiting.length;
    const batch = this.#schedule(startedAt);
    if (batch.length === 0) {
      this.#steppedAt = Number.NaN;
      const coming = this.#running.flatMap((task) => task.coming ?? []);
      if (coming.length > 0) {
        await Promise.race(coming);
        return true;
      }
      // Where some were admitted, the next plan may have more to go on.
      return this.#waiting.length < numWaiting;
    }
    this.#underWay = true;
    try {
      await this.#batcher.run(batch, (task, error) => this.#fail(task, error));
      this.#commit(batch);
    } finally {
      this.#steppedAt = this.#clock();
      this.#parts.scheduler.ran?.(this.#steppedAt - startedAt);
      this.#underWay = false;
      for (const action of this.#deferred.splice(0)) action();
    }
    return true;
  }

  /** Admits whom the plan admits, and finds the tasks that its work is for. */
  #schedule(now: number): Share[] {
    const { scheduler, limits } = this.#parts;
    for (const task of [...this.#running]) if (task.look) this.#attempt(task, () => task.look?.());
    const isUp = (task: Task) => !rests(task) || (task.deadline ?? Number.POSITIVE_INFINITY) <= now;
    const look = (): Queue => ({
      waiting: this.#waiting.filter(isUp),
      running: this.#running,
      limits,
      freePages: this.#freePages(),
      now,
      sinceStep: Number.isNaN(this.#steppedAt) ? 0 : now - this.#steppedAt,
    });
    let queue = look();
    let plan = scheduler.plan(queue);
    // What cannot be put away is not movable from then on.
    while (plan.putAway && !this.#putAway(plan.putAway)) {
      queue = look();
      plan = scheduler.plan(queue);
    }
    scheduler.commit?.(queue, plan);
    for (const id of plan.expire ?? []) {
      const task = this.#byId.get(id)!;
      if (this.#leave(task)) task.expire?.(now);
    }
    for (const id of plan.admit) {
      const task = this.#byId.get(id)!;
      remove(this.#waiting, task);
      this.#running.push(task);
      this.#attempt(task, () => task.admit());
    }
    this.#wantMore();
    const batch: Share[] = [];
    for (const { id, tokens, outputs } of plan.work) {
      const task = this.#byId.get(id);
      // Of those admitted together that begin alike, one runs and the others wait for it.
      if (!task || task.pending === 0) continue;
      batch.push({ task, tokens, outputs, states: task.states?.(tokens) ?? 0 });
    }
    return batch;
  }

  /** Puts running tasks away, back to where they stood in the line; false where one cannot be, and others may have been. */
  #putAway(ids: readonly number[]): boolean {
    for (const id of ids) {
      const task = this.#byId.get(id)!;
      try {
        task.putAway!();
      } catch {
        return false;
      }
      remove(this.#running, task);
      const behind = this.#waiting.findIndex((other) => other.id > id);
      this.#waiting.splice(behind < 0 ? this.#waiting.length : behind, 0, task);
    }
    return true;
  }

  /** Pages that are not in use, nor promised to anybody who runs. */
  #freePages(owed = this.#parts.lease?.owedPages ?? 0): number {
    const { pool, prefix } = this.#parts;
    const promised = this.#running.reduce((sum, { pages }) => sum + pages, 0);
    return pool.limit - (prefix?.referenced ?? 0) - promised - owed;
  }

  /** Gives pages back that another engine wants, as far as nobody here needs them. Only between steps. */
  lend(): void {
    this.#parts.lease?.give(this.#freePages(0));
  }

  /** Asks for what the next in the line lacks. */
  #wantMore(): void {
    const { lease, limits } = this.#parts;
    if (!lease) return;
    const isGuest = ({ resident }: Task) => !resident;
    const hasPlace = this.#running.filter(isGuest).length < limits.maxSequences;
    const next = hasPlace ? this.#waiting.find(isGuest) : undefined;
    lease.want(next ? Math.max(0, next.pages - this.#freePages()) : 0);
  }

  /** Gives every task its rows of logits and states, in order. */
  #commit(batch: readonly Share[]): void {
    const { program } = this.#parts;
    const now = this.#clock();
    const total = (of: "outputs" | "states") => batch.reduce((sum, share) => sum + share[of], 0);
    const logits = handOut(program.logits(), total("outputs"));
    const states = handOut(program.states(), total("states"));
    for (const share of batch) {
      const { task } = share;
      this.#ran += share.tokens;
      if (task.cancelled) this.#cancel(task);
      for (const row of [...logits(share.outputs), ...states(share.states)]) {
        if (this.#byId.has(task.id)) this.#attempt(task, () => task.accept(row, now));
      }
      if (this.#byId.has(task.id)) task.settle();
      // Who leaves in the middle of a turn, or at its very end, comes back to a whole one.
      const turnEnded = task.endTurn?.() === true;
      if (task.done) this.#leave(task);
      else if (turnEnded && (rests(task) || !this.#waiting.every(rests))) {
        remove(this.#running, task);
        this.#toEndOfLine(task);
      }
    }
  }

  #toEndOfLine(task: Task): void {
    task.arrivedAt = this.#clock();
    this.#waiting.push(task);
  }

  /** A task that fails takes nobody with it. */
  #attempt(task: Task, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fail(task, MillraceError.from(error));
    }
  }

  #cancel(task: Task): void {
    if (this.#leave(task)) task.cancel();
  }

  #fail(task: Task, error: MillraceError): void {
    if (this.#leave(task)) task.fail(error);
  }

  /** Takes the task out of the queue; false where it had left already. */
  #leave(task: Task): boolean {
    if (!this.#byId.delete(task.id)) return false;
    this.#requests.delete(task.id);
    remove(this.#waiting, task);
    remove(this.#running, task);
    return true;
  }

  /** Throws INVALID_TOKEN for an id outside the vocabulary. */
  checkTokens(tokens: Int32Array): void {
    const { vocabularySize } = this.#parts;
    const at = tokens.findIndex((id) => !(id >= 0 && id < vocabularySize));
    if (at < 0) return;
    throw new MillraceError(
      "INVALID_TOKEN",
      `Token ${at} of the prompt is ${tokens[at]}; this model's ids run from 0 to ${vocabularySize - 1}.`,
      { at, got: tokens[at]!, vocabularySize },
    );
  }
}

/** Hands out rows, `total` in all, so many at a time. */
function handOut(values: Float32Array, total: number): (count: number) => Float32Array[] {
  const width = values.length / Math.max(1, total);
  let next = 0;
  return (count) => Array.from({ length: count }, () => values.subarray(next * width, ++next * width));
}

/** Whether a task stands in the line for nothing at present: it waits for its reader. Requests keep their places. */
const rests = ({ resident, pending }: Task): boolean => resident === true && pending === 0;

function remove<T>(list: T[], item: T): boolean {
  const at = list.indexOf(item);
  if (at >= 0) list.splice(at, 1);
  return at >= 0;
}
