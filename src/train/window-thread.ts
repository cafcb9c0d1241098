/**
 * Windows made ahead: a thread of its own makes them while the caller's is busy with arithmetic. A window is a function
 * of its index, so it is the same wherever it is made.
 */
import { Worker } from "node:worker_threads";
import type { TokenizerSource } from "../formats/checkpoint.js";
import type { Window, WindowSource } from "./data.js";
import type { DataRecipe } from "./training-data.js";

/** Which of the data's sources. */
export interface SourceName {
  readonly length: number;
  readonly split: "train" | "heldOut";
}

/** What the thread is started with. */
export interface WindowThreadData {
  readonly recipe: DataRecipe;
  readonly tokenizer: TokenizerSource;
}

/** To the thread: please make this one. */
export interface WindowRequest {
  readonly id: number;
  readonly source: SourceName;
  readonly index: number;
}

/** From the thread; null where it could not. */
export interface WindowAnswer {
  readonly id: number;
  readonly window: Window | null;
}

export interface WindowThread extends AsyncDisposable {
  /**
   * The windows of `local`, which is the data's source of this name. What the thread cannot make (it did not start, it
   * died, the data throws) is made here.
   */
  source(name: SourceName, local: WindowSource): WindowSource;
}

/** Starts a thread that makes windows of the data of `recipe`, in tokens of `tokenizer`. Disposing of it ends it. */
export function startWindowThread(data: WindowThreadData): WindowThread {
  const worker = new Worker(new URL("./window-worker.js", import.meta.url), {
    name: "millrace-windows",
    workerData: data,
    // Flags of the main program, such as --input-type, are not for this thread.
    execArgv: [],
  });
  const waiting = new Map<number, (window: Window | null) => void>();
  let alive = true;
  let nextId = 0;
  const end = (): void => {
    alive = false;
    for (const resolve of waiting.values()) resolve(null);
    waiting.clear();
  };
  worker.on("message", ({ id, window }: WindowAnswer) => {
    waiting.get(id)?.(window);
    waiting.delete(id);
  });
  worker.on("messageerror", end);
  worker.on("error", end);
  worker.on("exit", end);
  const ask = (source: SourceName, index: number): Promise<Window | null> =>
    new Promise((resolve) => {
      if (!alive) return resolve(null);
      const request: WindowRequest = { id: nextId++, source, index };
      waiting.set(request.id, resolve);
      worker.postMessage(request);
    });
  return {
    source: (name, local) => ({
      windowLength: local.windowLength,
      numWindows: local.numWindows,
      window: async (index) => (await ask(name, index)) ?? local.window(index),
    }),
    async [Symbol.asyncDispose]() {
      await worker.terminate();
    },
  };
}
