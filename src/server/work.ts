/** Requests under way: what ends them early, and how the server comes to rest. */
import { setMaxListeners } from "node:events";
import { ApiError } from "./errors.js";

/** One request, from its first byte until the last of its answer has been handed over. */
export class Work {
  readonly id: string;
  readonly startedAt = performance.now();
  /** For the log, when it has ended. */
  readonly notes: Record<string, unknown> = {};
  readonly #abort = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #ended: (work: Work) => void;
  #reason: ApiError | null = null;
  #streams = false;
  #hasEnd = true;
  #done = false;
  #failure: ApiError | null = null;

  /** @param limitMs Longest that it may take, in milliseconds. */
  constructor(id: string, limitMs: number, ended: (work: Work) => void) {
    this.id = id;
    this.#ended = ended;
    this.#timer = setTimeout(() => this.abort(timeout(limitMs)), Math.min(limitMs, MAX_TIMER_MS));
    this.#timer.unref();
    // One for each of its answers.
    setMaxListeners(0, this.#abort.signal);
  }

  /** Aborted when nobody waits for the answer any more, or nobody may. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Why it was ended early. */
  get reason(): ApiError | null {
    return this.#reason;
  }

  /** Its answer is a stream that goes on after the route is through, and calls `end` itself. */
  get streams(): boolean {
    return this.#streams;
  }

  /** What ended a stream that had begun. */
  get failure(): ApiError | null {
    return this.#failure;
  }

  get ms(): number {
    return performance.now() - this.startedAt;
  }

  /** Ends everything that was started with its signal. The first reason counts. */
  abort(reason: ApiError): void {
    if (this.#reason || this.#done) return;
    this.#reason = reason;
    this.#abort.abort();
  }

  stream(): void {
    this.#streams = true;
  }

  /** It ends by itself, and so others may wait for its place. */
  get hasEnd(): boolean {
    return this.#hasEnd;
  }

  /** Lifts the limit on its time: it has no end, and is watched by somebody who can. */
  withoutEnd(): void {
    this.#hasEnd = false;
    clearTimeout(this.#timer);
  }

  end(failure: ApiError | null = null): void {
    if (this.#done) return;
    this.#done = true;
    clearTimeout(this.#timer);
    this.#failure = failure;
    this.#ended(this);
  }
}

/** All requests under way. */
export class Works {
  readonly #works = new Set<Work>();
  readonly #limits: { readonly requests: number; readonly requestMs: number };
  readonly #toRest = new Map<Work, () => void>();
  #idle: (() => void) | null = null;
  #draining = false;

  /** @param limits `requests`: most at once. `requestMs`: longest that one may take, in milliseconds. */
  constructor(limits: { readonly requests: number; readonly requestMs: number }) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#works.size;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Throws 503 while the server comes to rest, or has too many already. */
  begin(id: string, onEnd: (work: Work) => void): Work {
    if (this.#draining) {
      throw new ApiError(503, "shutting_down", "The server is shutting down.", {
        headers: { Connection: "close" },
      });
    }
    const { requests, requestMs } = this.#limits;
    if (this.#works.size >= requests) {
      throw new ApiError(
        503,
        "overloaded",
        `The server has ${requests} requests under way already; try again soon.`,
        {
          headers: { "Retry-After": "1" },
          details: { requests },
        },
      );
    }
    const work = new Work(id, requestMs, () => {
      this.#works.delete(work);
      this.#toRest.delete(work);
      onEnd(work);
      if (this.#works.size === 0) this.#idle?.();
    });
    this.#works.add(work);
    return work;
  }

  /** Calls `rest` when the server begins to come to rest, for work that has no end of its own. */
  onDrain(work: Work, rest: () => void): void {
    this.#toRest.set(work, rest);
  }

  /**
   * Begins nothing from now on, and resolves when all has ended: by itself, or, after `patienceMs` milliseconds, because it
   * was aborted. Resolves with the number that were.
   */
  async drain(patienceMs: number): Promise<number> {
    this.#draining = true;
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
    for (const rest of this.#toRest.values()) rest();
    if (this.#works.size === 0) return 0;
    let aborted = 0;
    const timer = setTimeout(() => {
      aborted = this.#works.size;
      const reason = new ApiError(
        503,
        "shutting_down",
        "The server is shutting down before the answer was whole.",
      );
      for (const work of this.#works) {
        work.abort(reason);
        // A stream that nobody reads would never notice.
        if (work.streams) work.end(reason);
      }
    }, patienceMs);
    await idle;
    clearTimeout(timer);
    return aborted;
  }
}

/** The longest that a timer of Node.js can wait. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const timeout = (ms: number): ApiError =>
  new ApiError(504, "timeout", `The answer was not whole after ${ms / 1000} s, the server's limit.`, {
    details: { limitMs: ms },
  });

/** The client went away: nobody will read this. */
export const gone = (): ApiError => new ApiError(503, "client_closed", "The client closed the connection.");
