import { type Bar, Presets, SingleBar } from "cli-progress";
import { formatBytes } from "../engine/bytes.js";

export interface Progress {
  update(done: number, total: number): void;
  /** Clears the bar. Idempotent. */
  stop(): void;
}

/** A bar of bytes on standard error; silent where that is no terminal. It appears with the first update. */
export function progressBar(label: string): Progress {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const bar: Bar & SingleBar = new SingleBar(
    {
      format: `${label} {bar} {percentage} % of {size}, {eta_formatted} left`,
      hideCursor: true,
      clearOnComplete: true,
      stream: process.stderr,
    },
    Presets.shades_classic,
  ) as Bar & SingleBar;
  let started = false;
  return {
    update(done, total) {
      if (!started) bar.start(total, done, { size: formatBytes(total) });
      started = true;
      bar.update(done);
    },
    stop() {
      if (started) bar.stop();
      started = false;
    },
  };
}
