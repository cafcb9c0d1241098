/** Calls for embeddings, each of one or many texts: every text is a request of its own to the engine. */
import type { CacheReport } from "../cache/sequence.js";
import { createEmbedder } from "../decoding/embed.js";
import { MillraceError } from "../errors.js";
import type { Pooling } from "../models/contract.js";
import type { Engine } from "./engine.js";
import type { EmbedEnd } from "./protocol.js";
import type { EngineRequest } from "./request.js";

/** What a call asks for, in token ids. */
export interface EmbeddingCall {
  /** At least one, each of at least one token. */
  readonly inputs: readonly Int32Array[];
  readonly pooling: Pooling;
  readonly dimensions: number;
  readonly normalize: boolean;
  /** How its requests stand among others, and with which adapter they run. */
  readonly standing: Pick<EngineRequest, "adapter" | "client" | "priority" | "deadline">;
}

export interface EmbeddingListener {
  end(value: EmbedEnd): void;
  fail(error: MillraceError): void;
}

interface Limits {
  /** Elements of a state. */
  readonly width: number;
  /** Most requests that run at once. */
  readonly sequences: number;
}

/** The calls under way. */
export class Embeddings {
  readonly #engine: Engine;
  readonly #limits: Limits;
  readonly #calls = new Map<number, Call>();

  constructor(engine: Engine, limits: Limits) {
    this.#engine = engine;
    this.#limits = limits;
  }

  /** Starts a call, whose requests have the ids from `id` on. Throws INVALID_ARGUMENT and INVALID_TOKEN for an input. */
  start(id: number, asked: EmbeddingCall, listener: EmbeddingListener): void {
    for (const [index, tokens] of asked.inputs.entries()) {
      if (tokens.length === 0) throw withoutTokens(index);
      this.#engine.checkTokens(tokens);
    }
    const leave = () => this.#calls.delete(id);
    const call = new Call(this.#engine, this.#limits, id, asked, {
      end(value) {
        leave();
        listener.end(value);
      },
      fail(error) {
        leave();
        listener.fail(error);
      },
    });
    this.#calls.set(id, call);
    call.begin();
  }

  /** Ends call `id` with ABORTED; false where there is none. */
  cancel(id: number): boolean {
    const call = this.#calls.get(id);
    call?.fail(new MillraceError("ABORTED", "The caller's signal ended the embedding."));
    return call !== undefined;
  }
}

/**
 * One call. No more of its texts stand in the engine's line than can run at once, so that what others ask for meanwhile
 * waits for a few of them and not for all.
 */
class Call {
  readonly #engine: Engine;
  readonly #limits: Limits;
  readonly #id: number;
  readonly #asked: EmbeddingCall;
  readonly #listener: EmbeddingListener;
  readonly #vectors: Float32Array;
  readonly #caches: CacheReport[] = [];
  readonly #startedAt = performance.now();
  /** Inputs submitted, and their requests that have not ended. */
  #next = 0;
  readonly #open = new Set<number>();
  #error: MillraceError | null = null;
  #done = false;

  constructor(engine: Engine, limits: Limits, id: number, asked: EmbeddingCall, listener: EmbeddingListener) {
    this.#engine = engine;
    this.#limits = limits;
    this.#id = id;
    this.#asked = asked;
    this.#listener = listener;
    this.#vectors = new Float32Array(asked.inputs.length * asked.dimensions);
  }

  begin(): void {
    this.#goOn();
  }

  /** Ends the call when nothing of it runs any more. */
  fail(error: MillraceError): void {
    this.#error ??= error;
    this.#goOn();
  }

  /** Puts in line what may stand there, or takes out what does, and ends the call where nothing is left. */
  #goOn(): void {
    if (this.#done) return;
    try {
      const { inputs } = this.#asked;
      while (!this.#error && this.#next < inputs.length && this.#open.size < this.#limits.sequences) {
        this.#submit(this.#next++);
      }
    } catch (error) {
      this.#error = MillraceError.from(error);
    }
    if (this.#error) for (const index of [...this.#open]) this.#engine.cancel(this.#id + index);
    if (this.#open.size > 0) return;
    this.#done = true;
    if (this.#error) this.#listener.fail(this.#error);
    else this.#listener.end(this.#result());
  }

  #result(): EmbedEnd {
    return {
      vectors: this.#vectors,
      numTokens: Int32Array.from(this.#asked.inputs, ({ length }) => length),
      caches: this.#caches,
      ms: performance.now() - this.#startedAt,
    };
  }

  #submit(index: number): void {
    const { inputs, pooling, dimensions, normalize, standing } = this.#asked;
    const { width } = this.#limits;
    const tokens = inputs[index]!;
    // Every architecture here is causal: what comes after the first token does not change its state.
    const prompt = pooling === "cls" ? tokens.subarray(0, 1) : tokens;
    const embedder = createEmbedder({
      numTokens: prompt.length,
      pooling: pooling === "mean" ? "mean" : "last",
      width,
      dimensions,
      normalize,
    });
    this.#engine.submit({
      id: this.#id + index,
      prompt,
      decoder: embedder,
      maxCached: prompt.length,
      credit: 1,
      ...standing,
      listener: {
        emit: () => {},
        end: ({ cache, finishReason }) => {
          if (finishReason === "length") {
            this.#vectors.set(embedder.vector(), index * dimensions);
            this.#caches[index] = cache;
          } else if (finishReason === "deadline") this.#error ??= late();
          this.#left(index);
        },
        fail: (error) => {
          this.#error ??= error;
          this.#left(index);
        },
      },
    });
    this.#open.add(index);
  }

  /** A request has ended. What follows from that waits until the engine can be asked again. */
  #left(index: number): void {
    this.#open.delete(index);
    queueMicrotask(() => {
      void this.#engine.betweenSteps(() => this.#goOn());
    });
  }
}

function withoutTokens(index: number): MillraceError {
  return new MillraceError(
    "INVALID_ARGUMENT",
    `Input ${index} has no tokens; give at least one (the model's tokenizer adds none of its own here).`,
    { name: "input", index },
  );
}

function late(): MillraceError {
  return new MillraceError(
    "DEADLINE_PASSED",
    "The deadline passed while the texts were being embedded. Allow them more time, or give fewer at once.",
  );
}
