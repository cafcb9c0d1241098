/** Holds answers to formats: the near end of the threads that compile and follow grammars. */
import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import { MillraceError } from "../../errors.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import type { Constraint } from "./constraint.js";
import type { FormatSpec } from "./format.js";
import { portable } from "./pattern.js";
import {
  BOARD,
  type FromGrammarThread,
  type GrammarVocabulary,
  grammarThread,
  type ThreadData,
  type ToGrammarThread,
} from "./thread.js";

/** Milliseconds that a grammar may take to compile, and that the tokens which may come next may take to find. */
const PATIENCE_MS = 30_000;
/** Compiled grammars that are kept for answers to come. */
const KEPT = 32;

/** The tokenizer's tokens as grammars see them, for `vocabularySize` logits: text tokens only. */
export function grammarVocabulary(tokenizer: Tokenizer, vocabularySize: number): GrammarVocabulary {
  const ends = new Uint32Array(vocabularySize);
  const parts: Uint8Array[] = [];
  let length = 0;
  for (let id = 0; id < vocabularySize; id++) {
    if (id < tokenizer.vocabularySize && !tokenizer.isSpecial(id)) {
      const bytes = tokenizer.tokenBytes(id);
      parts.push(bytes);
      length += bytes.length;
    }
    ends[id] = length;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return { bytes, ends, endIds: [...tokenizer.eosIds].filter((id) => id < vocabularySize) };
}

/**
 * The formats of one model's answers. Two threads start when a format is first asked for: one tries what was never seen
 * before, and is ended where that takes too long, so that the other, which follows the grammars of all answers under
 * way, meets none that fails.
 */
export class Grammars {
  readonly #vocabulary: () => GrammarVocabulary;
  readonly #patienceMs: number;
  #trial: Thread | null = null;
  #live: Thread | null = null;
  #known: GrammarVocabulary | null = null;
  /** Formats that have been tried, the last used last. */
  readonly #sound = new Set<string>();
  /** One format is tried after another. */
  #tried: Promise<unknown> = Promise.resolve();
  #nextId = 1;
  #closed: MillraceError | null = null;

  /** `vocabulary` is asked for once, if ever. */
  constructor(vocabulary: () => GrammarVocabulary, { patienceMs = PATIENCE_MS } = {}) {
    this.#vocabulary = vocabulary;
    this.#patienceMs = patienceMs;
  }

  /**
   * Holds an answer to a format, from its beginning or after the tokens `accepted`; to be disposed of when it has ended.
   * Rejects with INVALID_ARGUMENT, in the compiler's words, for a schema, grammar or expression that is wrong, not
   * supported or takes too long to compile, and for tokens that do not fit it; CLOSED.
   */
  async start(format: FormatSpec, accepted: readonly number[] = []): Promise<Constraint> {
    const spec = portable(format);
    const key = JSON.stringify(spec);
    if (!this.#sound.has(key)) await this.#try(spec);
    this.#checkOpen();
    this.#sound.delete(key);
    this.#sound.add(key);
    const [oldest] = this.#sound;
    if (this.#sound.size > KEPT) this.#sound.delete(oldest!);
    this.#live ??= this.#begin((thread) => {
      if (this.#live === thread) this.#live = null;
    });
    const follower = new Follower(this.#live, this.#nextId++, this.#known!, this.#patienceMs);
    try {
      await follower.start(spec, accepted);
    } catch (error) {
      follower.dispose();
      throw this.#closed ?? refused(spec, error);
    }
    return follower;
  }

  /** Ends the threads; what is being started rejects with CLOSED. */
  async dispose(): Promise<void> {
    this.#closed = new MillraceError("CLOSED", "The model was closed during the call.");
    await Promise.all([this.#trial?.end(), this.#live?.end()]);
  }

  #try(spec: FormatSpec): Promise<void> {
    const trying = this.#tried.then(async () => {
      this.#checkOpen();
      this.#trial ??= this.#begin((thread) => {
        if (this.#trial === thread) this.#trial = null;
      });
      const thread = this.#trial;
      const tooSlow = `it takes longer than ${this.#patienceMs / 1000} s to compile`;
      const late = setTimeout(() => thread.end(tooSlow), this.#patienceMs);
      try {
        await thread.ask({ type: "try", id: this.#nextId++, spec });
      } catch (error) {
        throw this.#closed ?? refused(spec, error);
      } finally {
        clearTimeout(late);
      }
    });
    this.#tried = trying.catch(() => {});
    return trying;
  }

  #begin(onEnd: (thread: Thread) => void): Thread {
    this.#known ??= this.#vocabulary();
    return new Thread(this.#known, onEnd);
  }

  #checkOpen(): void {
    if (this.#closed) throw this.#closed;
  }
}

/** What a format cannot be used for, as its caller reads it. */
function refused(spec: FormatSpec, error: unknown): MillraceError {
  const reason = (error instanceof Error ? error.message : String(error)).replace(/\.+$/, "");
  const what = {
    json: "JSON",
    "json-schema": "schema",
    grammar: "grammar",
    regex: "expression",
    structure: "tools",
  };
  return new MillraceError(
    "INVALID_ARGUMENT",
    `The format's ${what[spec.type]} cannot be used: ${reason}.`,
    { name: "format", reason },
    { cause: error },
  );
}

/** One thread, and who waits for its answers. */
class Thread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, { resolve(): void; reject(error: Error): void }>();
  readonly #boards = new Map<number, Int32Array>();
  #end: Error | null = null;

  constructor(vocabulary: GrammarVocabulary, onEnd: (thread: Thread) => void) {
    const path = createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar");
    this.#worker = new Worker(`(${grammarThread})(require, ${JSON.stringify(BOARD)})`, {
      eval: true,
      name: "millrace-grammar",
      execArgv: [],
      workerData: { path, vocabulary, kept: KEPT } satisfies ThreadData,
    });
    this.#worker.unref();
    let failure: string | null = null;
    this.#worker.on("message", ({ id, error }: FromGrammarThread) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === null) waiting?.resolve();
      else waiting?.reject(new Error(error));
    });
    this.#worker.on("error", (error) => {
      failure = error.message;
    });
    this.#worker.on("exit", () => {
      this.#end ??= new Error(failure ?? "its compiler has ended");
      onEnd(this);
      for (const { reject } of this.#waiting.values()) reject(this.#end);
      this.#waiting.clear();
      for (const board of this.#boards.values()) Atomics.store(board, BOARD.masks, BOARD.failed);
    });
  }

  /** Resolves when the thread has done it. */
  ask(message: Extract<ToGrammarThread, { type: "try" | "start" }>): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(this.#end);
      this.#waiting.set(message.id, { resolve, reject });
      this.tell(message);
    });
  }

  tell(message: ToGrammarThread): void {
    if (!this.#end) this.#worker.postMessage(message);
  }

  /** `board` learns of the thread's end, until it is given up. */
  watch(id: number, board: Int32Array | null): void {
    if (board) this.#boards.set(id, board);
    else this.#boards.delete(id);
  }

  /** Ends the thread, whatever it does; who waits is rejected with `reason`. */
  async end(reason = "its compiler was ended"): Promise<void> {
    this.#end ??= new Error(reason);
    await this.#worker.terminate();
  }
}

/** Follows one answer: tells the thread each token, and waits for what may come next no sooner than it is needed. */
class Follower implements Constraint {
  readonly accepted: number[] = [];
  readonly #thread: Thread;
  readonly #id: number;
  readonly #board: Int32Array;
  readonly #mask: Int32Array;
  readonly #hasEnds: boolean;
  readonly #patienceMs: number;
  /** Masks that the thread was asked for. */
  #wanted = 1;

  constructor(thread: Thread, id: number, { ends, endIds }: GrammarVocabulary, patienceMs: number) {
    this.#thread = thread;
    this.#id = id;
    const words = BOARD.mask + Math.ceil(ends.length / 32);
    this.#board = new Int32Array(new SharedArrayBuffer(words * 4));
    this.#mask = this.#board.subarray(BOARD.mask);
    this.#hasEnds = endIds.length > 0;
    this.#patienceMs = patienceMs;
    thread.watch(id, this.#board);
  }

  async start(spec: FormatSpec, accepted: readonly number[]): Promise<void> {
    this.accepted.push(...accepted);
    const board = this.#board.buffer as SharedArrayBuffer;
    await this.#thread.ask({ type: "start", id: this.#id, spec, accepted, board });
  }

  allowed(): Int32Array {
    const until = performance.now() + this.#patienceMs;
    for (;;) {
      const masks = Atomics.load(this.#board, BOARD.masks);
      if (masks === this.#wanted) return this.#mask;
      if (masks === BOARD.failed) {
        throw new MillraceError(
          "INTERNAL",
          "What holds the answer to its format has failed; please report it.",
        );
      }
      const left = until - performance.now();
      if (left <= 0 || Atomics.wait(this.#board, BOARD.masks, masks, left) === "timed-out") break;
    }
    // It may go on for ever; others that it follows are not to wait for it as well.
    void this.#thread.end();
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `The format takes longer than ${this.#patienceMs / 1000} s to follow for one token. Make it less ambiguous.`,
      { name: "format" },
    );
  }

  accept(token: number): void {
    this.accepted.push(token);
    this.#wanted++;
    this.#thread.tell({ type: "accept", id: this.#id, token });
  }

  ended(): boolean {
    return !this.#hasEnds && this.allowed().every((word) => word === 0);
  }

  dispose(): void {
    this.#thread.watch(this.#id, null);
    this.#thread.tell({ type: "end", id: this.#id });
  }
}
