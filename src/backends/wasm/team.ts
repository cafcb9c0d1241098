/**
 * The threads of the wasm backend: each a worker that holds an instance of the module over the shared memory, with
 * a stack of its own. A thread sleeps on a word of that memory until the calling thread posts a job there.
 */
import { Worker } from "node:worker_threads";
import { MillraceError } from "../../errors.js";
import { PROGRAM } from "../compiled/abi.js";

/** int32 words of the board through which threads are told what to do. */
export const BOARD = {
  words: 32,
  /** Counts jobs; threads sleep on it. */
  generation: 0,
  /** Threads that have not finished the job. */
  busy: 1,
  /** Number of a thread that trapped, or 0. */
  failed: 2,
  /** What to do: a `JOB`. */
  job: 3,
  /** Arguments, as the job defines them. */
  arguments: 4,
  /** Byte offset in the `Program` struct of its barrier's address. */
  programBarrier: PROGRAM.barrier,
} as const;

export const JOB = {
  /** arguments: [program] */
  run: 1,
  /** arguments: [type, rows, columns, rowBytes, panelBytes, from, to] */
  pack: 2,
} as const;

/** What the module exports, as far as it is used. */
export interface KernelExports {
  readonly __stack_pointer: WebAssembly.Global;
  readonly __heap_base: WebAssembly.Global;
  mill_run(program: bigint, thread: number): void;
  mill_pack(type: number, rows: number, columns: number, from: bigint, to: bigint): void;
  mill_panel_bytes(type: number, columns: number): bigint;
  mill_quantized_row_bytes(columns: number): bigint;
  mill_wants_quantized(type: number): number;
}

export const STACK_BYTES = 2 ** 20;

/** What a thread is told when it starts. */
interface ThreadData {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Address of the board. */
  readonly board: number;
  readonly thread: number;
  readonly threads: number;
  readonly stackTop: number;
  readonly numbers: { readonly BOARD: typeof BOARD; readonly JOB: typeof JOB };
}

type PackArguments = readonly [
  type: number,
  rows: number,
  columns: number,
  rowBytes: number,
  panelBytes: number,
  from: number,
  to: number,
];

/** Packs one thread's share of the panels. Also sent to the threads as text: it may use nothing from outside. */
export function packShare(
  kernels: KernelExports,
  [type, rows, columns, rowBytes, panelBytes, from, to]: PackArguments,
  thread: number,
  threads: number,
): void {
  const panels = Math.ceil(rows / 16);
  const first = Math.floor((panels * thread) / threads);
  const end = Math.floor((panels * (thread + 1)) / threads);
  const count = Math.min(rows, end * 16) - first * 16;
  if (count <= 0) return;
  kernels.mill_pack(
    type,
    count,
    columns,
    BigInt(from + first * 16 * rowBytes),
    BigInt(to + first * panelBytes),
  );
}

/**
 * A thread's whole program, started from this function's source text: it may use nothing from outside. (A worker
 * made from text needs no file of its own, which bundlers and TypeScript runners would each look for elsewhere.)
 */
function threadMain(pack: typeof packShare): void {
  const { workerData, parentPort } = process.getBuiltinModule("node:worker_threads");
  const { module, memory, board, thread, threads, stackTop, numbers } = workerData as ThreadData;
  const { BOARD, JOB } = numbers;
  const SPINS = 2000;
  const words = new Int32Array(memory.buffer, board, BOARD.words);
  const kernels = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as KernelExports;
  kernels.__stack_pointer.value = stackTop;
  const argument = (index: number): number => Atomics.load(words, BOARD.arguments + index) >>> 0;

  const work = (job: number): void => {
    if (job === JOB.run) kernels.mill_run(BigInt(argument(0)), thread);
    else pack(kernels, [0, 1, 2, 3, 4, 5, 6].map(argument) as unknown as PackArguments, thread, threads);
  };
  /** After a trap in a run: keeps arriving at the program's barriers, so that the other threads reach their end. */
  const haunt = (program: number): void => {
    const all = new Int32Array(memory.buffer);
    const barrier = all[(program + BOARD.programBarrier) >>> 2]! >>> 2;
    for (;;) {
      const generation = Atomics.load(all, barrier + 16);
      if (Atomics.add(all, barrier, 1) + 1 === threads) {
        Atomics.store(all, barrier, 0);
        Atomics.store(all, barrier + 16, generation + 1);
        Atomics.notify(all, barrier + 16);
      } else {
        while (Atomics.load(all, barrier + 16) === generation) Atomics.wait(all, barrier + 16, generation);
      }
    }
  };

  parentPort!.postMessage("ready");
  for (let seen = 0; ; seen++) {
    for (let spin = 0; spin < SPINS && Atomics.load(words, BOARD.generation) === seen; spin++);
    // A notification of the job before may come late, when that is long done: only the number says that there is another.
    while (Atomics.load(words, BOARD.generation) === seen) Atomics.wait(words, BOARD.generation, seen);
    const job = Atomics.load(words, BOARD.job);
    try {
      work(job);
    } catch {
      Atomics.store(words, BOARD.failed, thread);
    }
    Atomics.sub(words, BOARD.busy, 1);
    Atomics.notify(words, BOARD.busy);
    if (Atomics.load(words, BOARD.failed) === thread && job === JOB.run) haunt(argument(0));
  }
}

/** The threads besides the calling one. */
export class Team {
  readonly #words: Int32Array;
  readonly #workers: readonly Worker[];
  #broken: string | null = null;

  private constructor(words: Int32Array, workers: readonly Worker[]) {
    this.#words = words;
    this.#workers = workers;
    // From now on they live as long as somebody else keeps the process alive.
    for (const worker of workers) worker.unref();
    for (const worker of workers) {
      worker.on("error", (error) => {
        this.#broken ??= error instanceof Error ? error.message : String(error);
      });
      worker.on("exit", (code) => {
        this.#broken ??= `it ended with code ${code}`;
      });
    }
  }

  /**
   * Starts threads 1 .. threads-1 and waits until all are ready; `stacks[i]` is the top of thread i+1's stack.
   * Throws WORKER_CRASHED where one does not come up.
   */
  static async start(
    module: WebAssembly.Module,
    memory: WebAssembly.Memory,
    board: number,
    stacks: readonly number[],
  ): Promise<Team> {
    const threads = stacks.length + 1;
    const workers = stacks.map((stackTop, index) => {
      const thread = index + 1;
      const workerData: ThreadData = {
        module,
        memory,
        board,
        thread,
        threads,
        stackTop,
        numbers: { BOARD, JOB },
      };
      const source = `(${threadMain})(${packShare})`;
      return new Worker(source, { eval: true, workerData, name: `millrace-${thread}` });
    });
    try {
      await Promise.all(workers.map(ready));
    } catch (cause) {
      await Promise.all(workers.map((worker) => worker.terminate()));
      throw new MillraceError(
        "WORKER_CRASHED",
        `A compute thread did not start: ${(cause as Error).message}`,
        {},
        { cause },
      );
    }
    return new Team(new Int32Array(memory.buffer, board, BOARD.words), workers);
  }

  /**
   * Has every thread do the job, `own` being the calling thread's part; returns when all are done.
   * Throws WORKER_CRASHED where one of them trapped; the team is then of no more use.
   */
  do(job: (typeof JOB)[keyof typeof JOB], args: readonly number[], own: () => void): void {
    if (this.#broken !== null) throw this.#crash(this.#broken);
    const words = this.#words;
    args.forEach((value, index) => {
      Atomics.store(words, BOARD.arguments + index, value | 0);
    });
    Atomics.store(words, BOARD.job, job);
    Atomics.store(words, BOARD.busy, this.#workers.length);
    Atomics.add(words, BOARD.generation, 1);
    Atomics.notify(words, BOARD.generation);
    try {
      own();
    } catch (cause) {
      this.#broken = cause instanceof Error ? cause.message : String(cause);
      void this.dispose();
      throw this.#crash(this.#broken);
    }
    for (let busy = Atomics.load(words, BOARD.busy); busy > 0; busy = Atomics.load(words, BOARD.busy)) {
      Atomics.wait(words, BOARD.busy, busy);
    }
    const failed = Atomics.load(words, BOARD.failed);
    if (failed === 0) return;
    this.#broken = `thread ${failed} trapped`;
    void this.dispose();
    throw this.#crash(this.#broken);
  }

  async dispose(): Promise<void> {
    this.#broken ??= "it was closed";
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #crash(why: string): MillraceError {
    return new MillraceError("WORKER_CRASHED", `A compute thread of the wasm backend failed: ${why}.`, {
      why,
    });
  }
}

function ready(worker: Worker): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.once("message", () => resolve());
    worker.once("error", reject);
    worker.once("exit", (code) => reject(new Error(`it ended with code ${code}`)));
  });
}
