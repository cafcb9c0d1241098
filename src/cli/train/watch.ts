/** What stands around a training run: progress, log, loss curve, checkpoints, and the signals that stop it. */
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { MillraceError } from "../../errors.js";
import type { Curve } from "../../train/checkpoints.js";
import type { LoopOptions, TrainStart } from "../../train/loop-options.js";
import { lossCurve } from "../../train/loss-curve.js";
import type { TrainEvent } from "../../train/trainer.js";
import { write, writeJson } from "../terminal.js";
import type { LoopFlags } from "./flags.js";
import { trainingProgress } from "./progress.js";
import { onTrainingStop } from "./stop.js";

export interface TrainingWatch extends Disposable {
  readonly options: Pick<LoopOptions, "checkpoint" | "onEvent" | "signal">;
  readonly curvePath: string;
  /** Writes the curve, and prints the result as JSON where that was asked for, else `summary`. */
  finish(result: { readonly curve: Curve }, summary: string): Promise<void>;
}

/**
 * `title` stands over the curve. Checkpoints go to `base`.training and the curve to `base`.svg unless the flags say
 * otherwise.
 */
export function watchTraining(flags: LoopFlags, title: string, base: string): TrainingWatch {
  const folder = flags.checkpoint ?? `${base}.training`;
  const curvePath = flags.curve ?? `${base}.svg`;
  const stop = new AbortController();
  const interrupt = onTrainingStop(() => stop.abort());
  const curve: Curve = { train: [], heldOut: [] };
  const progress = trainingProgress();
  const log = flags.log === undefined ? null : openLog(flags.log);
  const writeCurve = (losses: Curve) =>
    writing(curvePath, () => writeFileSync(curvePath, lossCurve(losses, title)));
  return {
    options: {
      checkpoint: { folder, every: flags.every, resume: flags.resume ?? false },
      signal: stop.signal,
      onEvent(event: TrainEvent | TrainStart): void {
        log?.(event);
        progress.tell(event);
        if (event.kind === "resumed") {
          curve.train.push(...event.curve.train);
          curve.heldOut.push(...event.curve.heldOut);
        }
        if (event.kind === "step") curve.train.push(event.loss);
        if (event.kind === "evaluated") curve.heldOut.push(event);
        if (event.kind === "saved") writeCurve(curve);
      },
    },
    curvePath,
    async finish(result, summary) {
      progress[Symbol.dispose]();
      writeCurve(result.curve);
      if (flags.json) await writeJson({ ...result, curve: curvePath, checkpoint: folder });
      else await write(summary);
    },
    [Symbol.dispose]() {
      progress[Symbol.dispose]();
      interrupt[Symbol.dispose]();
    },
  };
}

/** A writer of events as JSON lines. Throws WRITE_FAILED. */
function openLog(path: string): (event: object) => void {
  writing(path, () => mkdirSync(dirname(path), { recursive: true }));
  // Earlier losses stand in the log's own earlier lines.
  const text = (event: object) =>
    JSON.stringify(event, (key, value) => (key === "curve" ? undefined : value));
  return (event) => writing(path, () => appendFileSync(path, `${text(event)}\n`));
}

/** What the file system refuses, as WRITE_FAILED. */
function writing(path: string, write: () => void): void {
  try {
    write();
  } catch (error) {
    throw new MillraceError(
      "WRITE_FAILED",
      `Cannot write ${path}: ${(error as Error).message}. Training goes on from its last checkpoint with --resume.`,
      { path },
      { cause: error },
    );
  }
}
