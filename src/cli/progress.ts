/** Progress on standard error; silent where that is no terminal. */
import { type Bar, Presets, SingleBar } from "cli-progress";
import { formatBytes } from "../engine/bytes.js";
import type { OpenProgress } from "../engine/protocol.js";
import { say } from "./terminal.js";

export interface Progress {
  update(done: number, total: number): void;
  /** Clears the bar. Idempotent. */
  stop(): void;
}

/** Work that is done sooner than this, in milliseconds, shows no bar. */
const PATIENCE_MS = 300;

/** A bar, of bytes unless told otherwise. It appears with an update, once the work has taken a while. */
export function progressBar(label: string, sizeOf: (total: number) => string = formatBytes): Progress {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const bar: Bar & SingleBar = new SingleBar(
    {
      format: `${label} {bar} {percentage} % of {size}, {eta_formatted} left`,
      barsize: 30,
      hideCursor: true,
      clearOnComplete: true,
      stream: process.stderr,
    },
    Presets.shades_classic,
  ) as Bar & SingleBar;
  const createdAt = performance.now();
  const showCursor = () => process.stderr.write("\u001b[?25h");
  let started = false;
  return {
    update(done, total) {
      if (!started) {
        if (performance.now() - createdAt < PATIENCE_MS) return;
        started = true;
        process.once("exit", showCursor);
        bar.start(total, done, { size: sizeOf(total) });
      }
      bar.update(done);
    },
    stop() {
      if (started) bar.stop();
      started = false;
      process.off("exit", showCursor);
    },
  };
}

const LABELS: Record<OpenProgress["phase"], string> = { download: "downloading", load: "loading" };

export interface PhaseBars extends Disposable {
  update(progress: OpenProgress): void;
}

/** A bar per phase of opening a model, one after the other. Where there is no terminal, a download is announced. */
export function phaseBars(source: string): PhaseBars {
  let phase: OpenProgress["phase"] | null = null;
  let bar: Progress | null = null;
  return {
    update(progress) {
      if (progress.phase !== phase) {
        bar?.stop();
        phase = progress.phase;
        bar = progressBar(LABELS[phase]);
        if (phase === "download" && !process.stderr.isTTY) {
          say(`millrace: downloading ${source} (${formatBytes(progress.totalBytes)})`);
        }
      }
      bar?.update(progress.loadedBytes, progress.totalBytes);
    },
    [Symbol.dispose]: () => bar?.stop(),
  };
}
