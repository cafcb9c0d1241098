/**
 * The worker's end of the wire: takes calls, drives the engine while there is work, and sends what each step gave in
 * one message. Knows messages and turns of the event loop, and leaves the rest to the loaded model.
 */
import type { Emission } from "../decoding/contract.js";
import { MillraceError } from "../errors.js";
import type { LoadedModel } from "./loaded.js";
import type { CallName, Calls, FromWorker, OpenParameters, OpenProgress, ToWorker } from "./protocol.js";

/** The part of a MessagePort that the host uses. */
export interface HostPort {
  postMessage(message: FromWorker): void;
  on(event: "message", listener: (message: ToWorker) => void): void;
  close(): void;
}

export type Loader = (
  parameters: OpenParameters,
  onProgress: (progress: OpenProgress) => void,
) => Promise<LoadedModel>;

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
  #closing = false;
  /** What the step under way has to say: first all pieces, then who has ended. */
  #pieces: { id: number; piece: Emission }[] = [];
  #endings: FromWorker[] = [];

  constructor(port: HostPort, load: Loader) {
    this.#port = port;
    this.#load = load;
  }

  receive(message: ToWorker): void {
    try {
      if (message.type === "call") this.#answer(message);
      else if (message.type === "read") this.#model?.engine.grant(message.id, message.pieces);
      else this.#model?.engine.cancel(message.id);
    } catch (error) {
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
      case "generate":
        this.#opened().generate(id, call.parameters, {
          emit: (piece) => this.#pieces.push({ id, piece }),
          end: (value) => this.#reply(id, value),
          fail: (error) => this.#fail(id, error),
        });
        break;
      case "score":
        this.#opened().score(id, call.parameters.text, {
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
      case "renderChat":
        this.#reply(id, this.#opened().renderChat(call.parameters));
        break;
      case "usage":
        this.#reply(id, this.#opened().engine.usage());
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
      this.#model = await this.#load(parameters, (progress) => {
        this.#port.postMessage({ type: "progress", id, progress });
      });
      this.#reply(id, this.#model.info);
    } catch (error) {
      this.#fail(id, error);
    }
    this.#flush();
  }

  #opened(): LoadedModel {
    if (this.#model) return this.#model;
    throw new MillraceError("INTERNAL", "The engine was asked before it was open.");
  }

  /** Starts the loop unless it runs: a step, its message, a turn of the event loop in which messages come in. */
  #drive({ engine }: LoadedModel): void {
    if (this.#driving || this.#closing) return;
    const loop = async () => {
      try {
        while (!this.#closing && (await engine.step())) {
          this.#flush();
          await nextTurn();
        }
      } catch (error) {
        engine.failAll(MillraceError.from(error));
      } finally {
        this.#driving = null;
        this.#flush();
      }
    };
    this.#driving = loop();
  }

  async #close(id: number): Promise<void> {
    this.#closing = true;
    await this.#opening;
    await this.#driving;
    this.#model?.engine.failAll(new MillraceError("CLOSED", "The model was closed during the call."));
    await this.#model?.dispose().catch((error: unknown) => this.#fail(id, error));
    this.#reply(id, null);
    this.#flush();
    this.#port.close();
  }

  #reply<N extends CallName>(id: number, value: Calls[N]["result"]): void {
    this.#endings.push({ type: "result", id, value });
  }

  #fail(id: number, error: unknown): void {
    this.#endings.push({ type: "failed", id, error: MillraceError.from(error).toJSON() });
  }

  #flush(): void {
    if (this.#pieces.length > 0) {
      this.#port.postMessage({ type: "step", pieces: this.#pieces });
      this.#pieces = [];
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
