/**
 * The worker's end of the wire: takes calls, drives the engine while there is work, and sends what each step gave in
 * one message. Knows messages and turns of the event loop, and leaves the rest to the loaded model.
 */
import type { CacheEvent } from "../cache/sequence.js";
import type { Emission } from "../decoding/contract.js";
import { MillraceError } from "../errors.js";
import type { LoadedModel } from "./loaded.js";
import type { LeaseFromBroker, LeaseWire } from "./pool-lease.js";
import type {
  CallName,
  Calls,
  FromWorker,
  OpenParameters,
  OpenProgress,
  SessionReport,
  ToWorker,
} from "./protocol.js";
import type { SessionsListener } from "./sessions/live-session.js";

/** The part of a MessagePort that the host uses. */
export interface HostPort {
  postMessage(message: FromWorker): void;
  on(event: "message", listener: (message: ToWorker) => void): void;
  close(): void;
}

export type Loader = (
  parameters: OpenParameters,
  onProgress: (progress: OpenProgress) => void,
  sessions: SessionsListener,
  wire: LeaseWire,
) => Promise<LoadedModel>;

/** The longest that a timer takes. */
const LONGEST_ALARM_MS = 2 ** 31 - 1;

/** Answers calls on `port` until it is told to close. */
export function serve(port: HostPort, load: Loader): void {
  const host = new Host(port, load);
  port.on("message", (message) => host.receive(message));
}

class Host {
  readonly #port: HostPort;
  readonly #load: Loader;
  #model: LoadedModel | null = null;
  #opening: Promise<void> = Promise.resolve();
  /** The loop that runs steps, while there are any. */
  #driving: Promise<void> | null = null;
  /** There may be work that the loop has not seen. */
  #wanted = false;
  #closing = false;
  /** Hears of the pages that the model may use, where others use its memory too. */
  #onLease: (message: LeaseFromBroker) => void = () => {};
  /** Comes when a deadline passes while nothing runs. */
  #alarm: NodeJS.Timeout | undefined;
  /** What the step under way has to say: first all pieces, then who has ended. */
  #pieces: { id: number; piece: Emission }[] = [];
  #reports = new Map<number, SessionReport>();
  #changes: { id: number; change: CacheEvent }[] = [];
  #endings: FromWorker[] = [];
  #flushing: NodeJS.Immediate | null = null;

  constructor(port: HostPort, load: Loader) {
    this.#port = port;
    this.#load = load;
  }

  receive(message: ToWorker): void {
    try {
      if (message.type === "call") this.#answer(message);
      else if (message.type === "lease") this.#hearOfLease(message.message);
      else if (message.type === "read") {
        this.#model?.engine.grant(message.id, message.pieces);
        this.#model?.asking.grant(message.id, message.pieces);
      } else {
        this.#model?.cancel(message.id);
        void this.#model?.asking.cancel(message.id).then(() => this.#flush());
      }
    } catch (error) {
      // Nobody waits for an answer to a lease.
      if (message.type === "lease") throw error;
      this.#fail(message.id, error);
    }
    this.#flush();
    if (this.#model) this.#drive(this.#model);
  }

  #answer(call: Extract<ToWorker, { type: "call" }>): void {
    const { id } = call;
    switch (call.name) {
      case "open":
        this.#opening = this.#open(id, call.parameters);
        break;
      case "generate": {
        const submitted = this.#opened().generate(id, call.parameters, {
          emit: (piece) => this.#pieces.push({ id, piece }),
          end: (value) => this.#reply(id, value),
          fail: (error) => this.#fail(id, error),
        });
        if (submitted) this.#submitted(id, submitted);
        break;
      }
      case "score":
        this.#opened().score(id, call.parameters, {
          end: (value) => this.#reply(id, value),
          fail: (error) => this.#fail(id, error),
        });
        break;
      case "embed":
        this.#opened().embed(id, call.parameters, {
          end: (value) => this.#reply(id, value),
          fail: (error) => this.#fail(id, error),
        });
        break;
      case "tokenize":
        this.#reply(id, this.#opened().tokenize(call.parameters.text, call.parameters));
        break;
      case "detokenize":
        this.#reply(id, this.#opened().detokenize(call.parameters.tokens));
        break;
      case "tokenBytes":
        this.#reply(id, this.#opened().tokenBytes(call.parameters.token));
        break;
      case "renderChat":
        this.#reply(id, this.#opened().renderChat(call.parameters));
        break;
      case "usage":
        this.#reply(id, this.#opened().engine.usage());
        break;
      case "openSession":
        this.#later(id, this.#opened().sessions.open(id, call.parameters));
        break;
      case "restore":
        this.#later(
          id,
          this.#opened().sessions.restore(id, call.parameters.path, call.parameters.memoryBytes),
        );
        break;
      case "save":
        this.#later(id, this.#opened().sessions.save(call.parameters.session, call.parameters.path));
        break;
      case "fork":
        this.#later(id, this.#opened().sessions.fork(id, call.parameters.session));
        break;
      case "append":
        this.#later(id, this.#opened().asking.append(id, call.parameters));
        break;
      case "appendScored":
        this.#later(id, this.#opened().asking.appendScored(id, call.parameters));
        break;
      case "answer": {
        const emit = (piece: Emission) => this.#pieces.push({ id, piece });
        this.#later(id, this.#opened().asking.answer(id, call.parameters, emit));
        break;
      }
      case "rewind":
        this.#later(id, this.#opened().sessions.rewind(call.parameters.session, call.parameters.to));
        break;
      case "inspect":
        this.#later(id, this.#opened().sessions.inspect(call.parameters.session));
        break;
      case "map":
        this.#later(id, this.#opened().sessions.map(call.parameters.session, call.parameters.columns));
        break;
      case "recall":
        this.#later(id, this.#opened().asking.recall(call.parameters.session, call.parameters.question));
        break;
      case "watch":
        this.#later(
          id,
          this.#opened()
            .sessions.watch(call.parameters.session, call.parameters.watched)
            .then(() => null),
        );
        break;
      case "closeSession":
        this.#later(
          id,
          this.#opened()
            .sessions.close(call.parameters.session)
            .then(() => null),
        );
        break;
      case "close":
        this.#close(id);
        break;
      default:
        call satisfies never;
    }
  }

  async #open(id: number, parameters: OpenParameters): Promise<void> {
    try {
      const sessions: SessionsListener = {
        wake: () => this.#model && this.#drive(this.#model),
        report: (session, report) => this.#reports.set(session, report),
        change: (session, change) => {
          this.#changes.push({ id: session, change });
          this.#flushSoon();
        },
      };
      const onProgress = (progress: OpenProgress) =>
        this.#port.postMessage({ type: "progress", id, progress });
      const wire: LeaseWire = {
        send: (message) => this.#port.postMessage({ type: "lease", message }),
        listen: (listener) => {
          this.#onLease = listener;
        },
      };
      this.#model = await this.#load(parameters, onProgress, sessions, wire);
      this.#reply(id, this.#model.info);
    } catch (error) {
      this.#fail(id, error);
    }
    this.#flush();
  }

  /** Before the model is there, and between steps from then on. */
  #hearOfLease(message: LeaseFromBroker): void {
    const model = this.#model;
    if (!model) this.#onLease(message);
    else {
      void model.engine.betweenSteps(() => {
        this.#onLease(message);
        model.engine.lend();
        this.#drive(model);
      });
    }
  }

  #opened(): LoadedModel {
    if (this.#model) return this.#model;
    throw new MillraceError("INTERNAL", "The engine was asked before it was open.");
  }

  /** Starts the loop unless it runs: a step, its message, a turn of the event loop in which messages come in. */
  #drive(model: LoadedModel): void {
    this.#wanted = true;
    if (this.#driving || this.#closing) return;
    clearTimeout(this.#alarm);
    const { engine } = model;
    const loop = async () => {
      try {
        while (this.#wanted && !this.#closing) {
          this.#wanted = false;
          while (!this.#closing && (await engine.step())) {
            this.#flush();
            await nextTurn();
          }
        }
      } catch (error) {
        engine.failAll(MillraceError.from(error));
      } finally {
        this.#driving = null;
        this.#flush();
        this.#setAlarm(model);
      }
    };
    this.#driving = loop();
  }

  /** Those who wait for a reader or for room hear of their deadline too. */
  #setAlarm(model: LoadedModel): void {
    const ms = model.engine.untilDeadline();
    if (this.#closing || ms === Number.POSITIVE_INFINITY) return;
    this.#alarm = setTimeout(() => this.#drive(model), Math.min(Math.ceil(ms), LONGEST_ALARM_MS));
  }

  async #close(id: number): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#alarm);
    await this.#opening;
    await this.#driving;
    const closed = new MillraceError("CLOSED", "The model was closed during the call.");
    this.#model?.engine.failAll(closed);
    await this.#model?.sessions.closeAll(closed);
    await this.#model?.dispose().catch((error: unknown) => this.#fail(id, error));
    this.#reply(id, null);
    this.#flush();
    this.#port.close();
  }

  /** Runs request `id` once it has been submitted. */
  async #submitted(id: number, submitted: Promise<void>): Promise<void> {
    try {
      await submitted;
    } catch (error) {
      this.#fail(id, error);
    }
    this.#flush();
    if (this.#model) this.#drive(this.#model);
  }

  #reply<N extends CallName>(id: number, value: Calls[N]["result"]): void {
    this.#endings.push({ type: "result", id, value });
  }

  #fail(id: number, error: unknown): void {
    this.#endings.push({ type: "failed", id, error: MillraceError.from(error).toJSON() });
  }

  /** Answers call `id` when `value` is there. */
  async #later<N extends CallName>(id: number, value: Promise<Calls[N]["result"]>): Promise<void> {
    try {
      this.#reply(id, await value);
    } catch (error) {
      this.#fail(id, error);
    }
    this.#flush();
  }

  /** Sends what is said while no step is under way: by a disk that fills up behind a session that waits. */
  #flushSoon(): void {
    if (this.#driving || this.#flushing) return;
    this.#flushing = setImmediate(() => {
      this.#flushing = null;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#pieces.length + this.#reports.size + this.#changes.length > 0) {
      const reports = Array.from(this.#reports, ([id, report]) => ({ id, report }));
      this.#port.postMessage({ type: "step", pieces: this.#pieces, reports, changes: this.#changes });
      this.#pieces = [];
      // A new one: tables of a Map that is cleared are chained to each other, and grow old together.
      this.#reports = new Map();
      this.#changes = [];
    }
    for (const message of this.#endings.splice(0)) this.#port.postMessage(message);
  }
}

/** Lets everything that has arrived be handled, timers and messages included. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
