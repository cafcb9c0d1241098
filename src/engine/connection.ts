/**
 * The main thread's end of the wire: numbers calls, pairs answers with them, and turns the worker's end, however it
 * came, into a typed error for everything that was still waiting.
 */
import { Worker } from "node:worker_threads";
import type { CacheEvent } from "../cache/sequence.js";
import type { Emission } from "../decoding/contract.js";
import { MillraceError } from "../errors.js";
import { Passing } from "./passing.js";
import type { LeaseToBroker } from "./pool-lease.js";
import type { CallName, Calls, FromWorker, OpenProgress, SessionReport, ToWorker } from "./protocol.js";
import type { SharedMemory } from "./shared-memory.js";

/** Whatever carries an engine: a worker thread, or the other end of a message channel in the same thread. */
export interface EngineThread {
  post(message: ToWorker): void;
  /** `onEnd` is called once, with what is known of the reason, when no further message can come. */
  listen(onMessage: (message: FromWorker) => void, onEnd: (reason: string) => void): void;
  /** Whether this thread keeps the process alive. */
  hold(alive: boolean): void;
  /** Resolves when the thread has ended and its memory is free. Idempotent. */
  terminate(): Promise<void>;
}

/** Starts the engine's worker. */
export function startWorker(): EngineThread {
  const options = {
    name: "millrace",
    // Flags of the main program, such as --input-type, are not for this thread.
    execArgv: [],
    // What the engine allocates per step is little and soon garbage: a small nursery keeps resident memory down.
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  };
  return threadOf(new Worker(new URL("./worker.js", import.meta.url), options));
}

/** `worker`, which serves an engine. It no longer keeps the process alive unless it is held. */
export function threadOf(worker: Worker): EngineThread {
  worker.unref();
  let failure: string | null = null;
  return {
    post: (message) => worker.postMessage(message),
    listen(onMessage, onEnd) {
      worker.on("message", onMessage);
      worker.on("messageerror", (error) => onEnd(`a message could not be read: ${error.message}`));
      worker.on("error", (error: NodeJS.ErrnoException) => {
        failure = error.code === "ERR_WORKER_OUT_OF_MEMORY" ? "out of memory" : error.message;
      });
      worker.on("exit", (code) => onEnd(failure ?? `exit code ${code}`));
    },
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
    async terminate() {
      await worker.terminate();
    },
  };
}

interface Listeners {
  readonly onProgress?: (progress: OpenProgress) => void;
  readonly onPiece?: (piece: Emission) => void;
}

/** What a session hears between its calls. */
export interface SessionListener {
  report(report: SessionReport): void;
  change(change: CacheEvent): void;
}

interface PendingCall extends Listeners {
  readonly resolve: (value: never) => void;
  readonly reject: (error: MillraceError) => void;
}

export class Connection {
  readonly #thread: EngineThread;
  readonly #pending = new Passing<PendingCall>();
  readonly #sessions = new Map<number, SessionListener>();
  #nextId = 1;
  #holds = 0;
  /** Why nothing can be asked any more. */
  #end: MillraceError | null = null;
  #closing: Promise<void> | null = null;
  /** Resolves when nothing can be asked any more, with why: CLOSED, WORKER_CRASHED. Never rejects. */
  readonly ended: Promise<MillraceError>;
  #ended: (reason: MillraceError) => void = () => {};

  readonly #lease: ReturnType<SharedMemory["admit"]> | null;

  /** @param shared The memory that the engine shares with others; absent: none. */
  constructor(thread: EngineThread, shared?: SharedMemory) {
    this.#thread = thread;
    this.#lease = shared?.admit((message) => thread.post({ type: "lease", message })) ?? null;
    this.ended = new Promise((resolve) => {
      this.#ended = resolve;
    });
    thread.listen(
      (message) => this.#receive(message),
      (reason) => {
        this.#lease?.leave();
        this.#finish(
          new MillraceError(
            "WORKER_CRASHED",
            `The engine's worker ended unexpectedly (${reason}). The process goes on; open the model again to continue.`,
            { reason },
          ),
        );
      },
    );
  }

  /**
   * Asks the worker. `numIds`: how many ids the call takes, its own and those after it. The call alone does not keep the process alive: see `hold`.
   * Rejects with what the worker threw, WORKER_CRASHED where it ended first, CLOSED after `close`.
   */
  call<N extends CallName>(
    name: N,
    parameters: Calls[N]["parameters"],
    listeners: Listeners = {},
    numIds = 1,
  ): { readonly id: number; readonly result: Promise<Calls[N]["result"]> } {
    const id = this.#nextId;
    this.#nextId += numIds;
    const result = new Promise<Calls[N]["result"]>((resolve, reject) => {
      if (this.#end) return reject(this.#end);
      this.#pending.set(id, { resolve, reject, ...listeners });
      try {
        this.#thread.post({ type: "call", id, name, parameters } as ToWorker);
      } catch (error) {
        this.#pending.delete(id);
        reject(unsendable(error));
      }
    });
    return { id, result };
  }

  /** From now on `listener` hears of session `id`; null ends that. */
  listen(id: number, listener: SessionListener | null): void {
    if (listener) this.#sessions.set(id, listener);
    else this.#sessions.delete(id);
  }

  /** Tells the worker something that has no answer. */
  tell(message: Extract<ToWorker, { type: "read" | "cancel" }>): void {
    if (!this.#end) this.#thread.post(message);
  }

  /** `promise`, during which the process stays alive. An idle model does not hold the process. */
  async hold<T>(promise: Promise<T>): Promise<T> {
    if (this.#holds++ === 0) this.#thread.hold(true);
    try {
      return await promise;
    } finally {
      if (--this.#holds === 0) this.#thread.hold(false);
    }
  }

  /**
   * Ends the worker: in order where it answers within `patienceMs`, by force where it does not. Everything still
   * waiting is rejected with CLOSED. Idempotent; resolves when the worker's memory is free.
   */
  close(patienceMs: number): Promise<void> {
    this.#closing ??= this.hold(this.#shutDown(patienceMs));
    return this.#closing;
  }

  async #shutDown(patienceMs: number): Promise<void> {
    if (!this.#end) {
      const waiting = this.#pending.values();
      const { id, result } = this.call("close", null);
      const last = this.#pending.get(id);
      this.#pending.clear();
      if (last) this.#pending.set(id, last);
      this.#end = new MillraceError("CLOSED", "The model was closed before or during the call.");
      this.#ended(this.#end);
      for (const { reject } of waiting) reject(this.#end);
      const answered = result.then(
        () => undefined,
        () => undefined,
      );
      let timer: NodeJS.Timeout | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, patienceMs);
      });
      await Promise.race([answered, patience]);
      clearTimeout(timer);
    }
    await this.#thread.terminate();
    this.#lease?.leave();
  }

  #receive(message: FromWorker): void {
    if (message.type === "step") {
      for (const { id, report } of message.reports) this.#sessions.get(id)?.report(report);
      for (const { id, change } of message.changes) this.#sessions.get(id)?.change(change);
      for (const { id, piece } of message.pieces) this.#pending.get(id)?.onPiece?.(piece);
      return;
    }
    if (message.type === "lease") {
      this.#hearOfLease(message.message);
      return;
    }
    const call = this.#pending.get(message.id);
    if (!call) return;
    if (message.type === "progress") {
      const { onProgress } = call;
      if (onProgress) undisturbed(() => onProgress(message.progress));
      return;
    }
    this.#pending.delete(message.id);
    if (message.type === "result") {
      call.resolve(message.value as never);
      return;
    }
    const error = MillraceError.fromJSON(message.error);
    call.reject(error);
    // A backend that has crashed in a worker that has not answers nothing from then on.
    if (error.code === "WORKER_CRASHED") {
      this.#finish(error);
      void this.#thread.terminate().then(() => this.#lease?.leave());
    }
  }

  #hearOfLease(message: LeaseToBroker): void {
    try {
      this.#lease?.hear(message);
    } catch (error) {
      this.#finish(MillraceError.from(error));
    }
  }

  #finish(error: MillraceError): void {
    this.#end ??= error;
    this.#ended(this.#end);
    const waiting = this.#pending.values();
    this.#pending.clear();
    for (const { reject } of waiting) reject(error);
  }
}

/**
 * Calls a listener of the caller's. What it throws is thrown on, by itself: the process hears of it as of any exception that
 * nobody catches, and all else that the message says arrives.
 */
export function undisturbed(tell: () => void): void {
  try {
    tell();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** What could not be copied to the worker was given by the caller: functions in tools or template variables, say. */
function unsendable(error: unknown): MillraceError {
  if (!(error instanceof DOMException) || error.name !== "DataCloneError") return MillraceError.from(error);
  return new MillraceError(
    "INVALID_ARGUMENT",
    `An option cannot be copied to the engine's worker (${error.message}); expected plain data.`,
    { reason: error.message },
    { cause: error },
  );
}
