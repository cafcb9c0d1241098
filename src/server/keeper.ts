/**
 * Keeps an engine running: one whose worker has crashed is opened again, at once where it had run well for a while, else
 * after a time that doubles with each failure, so that what crashes it every time does not keep the machine busy.
 */
import type { EngineUsage, MillraceError, Model } from "../index.js";
import { ApiError } from "./errors.js";

/** Opens an engine's model again. */
export type Reopen = (signal: AbortSignal) => Promise<Model>;

/** Hears what happens to an engine. */
export interface KeeperListener {
  /** It crashed, or (`crashed` false) could not be opened again. Null: it is not tried again. */
  failed(error: MillraceError, crashed: boolean, retryInMs: number | null): void;
  reopened(ms: number): void;
}

/** Milliseconds that never go back, and what happens after some of them. */
export interface Clock {
  now(): number;
  /** Returns what takes it back. */
  after(ms: number, action: () => void): () => void;
}

export interface EngineHealth {
  /** "reopening": it is being opened. "waiting": it will be. "crashed": it will not. */
  readonly state: "ready" | "reopening" | "waiting" | "crashed";
  /** Since the server started. */
  readonly crashes: number;
  /** Until it is opened again, where it waits for that. */
  readonly retryInMs: number | null;
}

/** An engine that ran so long counts as one that runs well. */
const WELL_MS = 60_000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

/** Milliseconds before an engine is opened again that has failed so many times in a row. */
export const pauseAfter = (failures: number): number =>
  failures <= 1 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (failures - 2), LONGEST_PAUSE_MS);

export class Keeper {
  readonly #reopen: Reopen | null;
  readonly #listener: KeeperListener;
  readonly #clock: Clock;
  readonly #patienceMs: number;
  readonly #closing = new AbortController();
  #model: Model | null;
  #state: EngineHealth["state"] = "ready";
  #since: number;
  /** In a row. */
  #failures = 0;
  #crashes = 0;
  /** When it is opened again. */
  #retryAt = 0;
  /** Opening under way. */
  #opening: Promise<void> | null = null;
  /** The model was opened here, and is to be closed here. */
  #isOwn = false;
  readonly #waiting = new Set<() => void>();

  /**
   * @param reopen Null: a crash is the end.
   * @param patienceMs Longest that `ready` waits.
   */
  constructor(
    model: Model,
    reopen: Reopen | null,
    listener: KeeperListener,
    patienceMs: number,
    clock: Clock = MACHINE,
  ) {
    this.#model = model;
    this.#reopen = reopen;
    this.#listener = listener;
    this.#patienceMs = patienceMs;
    this.#clock = clock;
    this.#since = clock.now();
    void this.#watch(model);
  }

  /** Throws 503 while it is not there. */
  get model(): Model {
    if (this.#model) return this.#model;
    throw this.#notThere();
  }

  get health(): EngineHealth {
    const retryInMs = this.#state === "waiting" ? Math.max(0, this.#retryAt - this.#clock.now()) : null;
    return { state: this.#state, crashes: this.#crashes, retryInMs };
  }

  /** What the engine holds; null while it is not there. */
  usage(): Promise<EngineUsage | null> {
    return this.#model?.usage().catch(() => null) ?? Promise.resolve(null);
  }

  /**
   * Resolves when the model can be asked: at once, or, after a crash, when it has been opened again. Rejects with 503, and
   * when to come back, where that takes too long or will not be; when `signal` is aborted, too.
   */
  async ready(signal: AbortSignal): Promise<void> {
    let isLate = false;
    const giveUp = () => {
      isLate = true;
      for (const wake of [...this.#waiting]) wake();
    };
    const until = this.#clock.now() + this.#patienceMs;
    let takeBack: (() => void) | null = null;
    try {
      while (!this.#model) {
        const comesTooLate = this.#state === "waiting" && this.#retryAt > until;
        if (isLate || comesTooLate || signal.aborted || this.#state === "crashed") throw this.#notThere();
        takeBack ??= this.#clock.after(this.#patienceMs, giveUp);
        await this.#change(signal);
      }
    } finally {
      takeBack?.();
    }
  }

  /** Opens it no more, and closes what was opened here. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#opening;
    if (this.#isOwn) await this.#model?.close();
  }

  /** Resolves when the state has changed, or `signal` is aborted. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake);
    });
  }

  #enter(state: EngineHealth["state"]): void {
    this.#state = state;
    for (const wake of [...this.#waiting]) wake();
  }

  async #watch(model: Model): Promise<void> {
    const error = await model.ended;
    // Who closes it wants it closed.
    if (error.code !== "WORKER_CRASHED" || this.#closing.signal.aborted) return;
    this.#crashes++;
    this.#model = null;
    if (this.#clock.now() - this.#since >= WELL_MS) this.#failures = 0;
    this.#fail(error, true);
  }

  #fail(error: MillraceError, crashed: boolean): void {
    const pause = this.#reopen ? pauseAfter(++this.#failures) : null;
    if (pause === null) this.#enter("crashed");
    else {
      this.#retryAt = this.#clock.now() + pause;
      const takeBack = this.#clock.after(pause, () => {
        this.#opening = this.#open();
      });
      this.#closing.signal.addEventListener("abort", takeBack, { once: true });
      this.#enter("waiting");
    }
    this.#listener.failed(error, crashed, pause);
  }

  async #open(): Promise<void> {
    const { signal } = this.#closing;
    if (signal.aborted) return;
    const startedAt = this.#clock.now();
    this.#enter("reopening");
    try {
      const model = await this.#reopen!(signal);
      this.#model = model;
      this.#isOwn = true;
      this.#since = this.#clock.now();
      void this.#watch(model);
      this.#enter("ready");
      this.#listener.reopened(this.#since - startedAt);
    } catch (error) {
      if (!signal.aborted) this.#fail(error as MillraceError, false);
    }
  }

  #notThere(): ApiError {
    const { state, retryInMs } = this.health;
    if (state === "crashed") return crashed("It is not started again.", {});
    const seconds = Math.max(1, Math.ceil((retryInMs ?? 0) / 1000));
    return crashed("It is being started again; try again then.", { "Retry-After": String(seconds) });
  }
}

const crashed = (then: string, headers: Readonly<Record<string, string>>): ApiError =>
  new ApiError(503, "engine_crashed", `The model's engine has crashed. ${then}`, { headers });

const MACHINE: Clock = {
  now: () => performance.now(),
  after(ms, action) {
    const timer = setTimeout(action, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
