/**
 * Loaded before the program of a process that is measured (`node --import`): tells the parent once a second how much memory
 * the process has and how late its event loop is, and at the end how late it was over the whole time. It changes nothing
 * else in the process.
 */
import { type IntervalHistogram, monitorEventLoopDelay } from "node:perf_hooks";
import { isMainThread } from "node:worker_threads";

/** In milliseconds, each with the millisecond that lies between two looks. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** What the parent hears. */
export type FromWatched =
  | {
      readonly type: "sample";
      readonly residentBytes: number;
      readonly heapBytes: number;
      readonly externalBytes: number;
      /** Processor time of all threads, in milliseconds, since the process began. */
      readonly cpuMs: number;
      readonly delay: LoopDelay;
    }
  | { readonly type: "whole"; readonly delay: LoopDelay };

/** What the parent may say: from now on counts what "end" tells of. */
export type ToWatched = "begin" | "end";

const EVERY_MS = 1000;

function delayOf(histogram: IntervalHistogram): LoopDelay {
  const ms = (nanoseconds: number) => nanoseconds / 1e6;
  return { p50: ms(histogram.percentile(50)), p99: ms(histogram.percentile(99)), max: ms(histogram.max) };
}

function watch(tell: (message: FromWatched) => void): void {
  const [second, whole] = [
    monitorEventLoopDelay({ resolution: 1 }),
    monitorEventLoopDelay({ resolution: 1 }),
  ];
  second.enable();
  whole.enable();
  setInterval(() => {
    const { rss, heapUsed, external } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    tell({
      type: "sample",
      residentBytes: rss,
      heapBytes: heapUsed,
      externalBytes: external,
      cpuMs: (user + system) / 1000,
      delay: delayOf(second),
    });
    second.reset();
  }, EVERY_MS).unref();
  process.on("message", (message: ToWatched) => {
    if (message === "begin") whole.reset();
    else tell({ type: "whole", delay: delayOf(whole) });
  });
  process.on("disconnect", () => process.exit(0));
  process.channel?.unref();
}

// Threads of the program load it, too.
if (isMainThread && process.send) {
  watch((message) => process.send?.(message, () => {}));
}
