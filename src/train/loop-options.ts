/** What the training loop may be told, whatever it trains. */
import type { Stats } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { BackendName } from "../backends/contract.js";
import { invalid, oneOf, wholeNumber } from "../engine/options.js";
import { MillraceError } from "../errors.js";
import { makeFolder } from "../formats/cache-folder.js";
import { Lock } from "../formats/lock.js";
import { checkpointPath } from "./checkpoints.js";
import { checkLengths, type LengthShare } from "./lengths.js";
import type { MemoryMode } from "./network.js";
import type { OptimiserName } from "./optimisers/contract.js";
import { checkOptimiser, DEFAULT_RATES, type OptimiserSpec } from "./optimisers/resolve.js";
import { DECAYS, type Decay } from "./rate.js";
import type { TrainEvent } from "./trainer.js";

export interface LoopOptions {
  /** Updates of the weights. */
  readonly steps: number;
  /** Tokens of a window, or several lengths with their shares of the steps. Default 256. */
  readonly length?: number | readonly LengthShare[];
  /** Tokens of a step, a multiple of every length. Default 8192. */
  readonly batchTokens?: number;
  /** Most tokens that go through the network at once. Default 4096. */
  readonly microTokens?: number;
  /** Default "muon"; for adapters "adamw". */
  readonly optimiser?: OptimiserName | OptimiserSpec;
  /** Highest learning rate. Default: the optimiser's own. */
  readonly rate?: number;
  /** Steps in which the rate rises to it. Default a fiftieth of all, at most 1000. */
  readonly warmup?: number;
  /** Default "cosine". */
  readonly decay?: Decay;
  /** The last step's share of the highest rate. Default 0.05. */
  readonly finalRate?: number;
  /** Longest gradient; null for any. Default 1. */
  readonly clip?: number | null;
  /** Of first weights and noise. Default 0. */
  readonly seed?: number;
  /** Measure the held-out loss on `windows` windows every so many steps. Default every 100, 64 windows; null: never. */
  readonly evaluation?: { readonly every?: number; readonly windows?: number } | null;
  /** Save to `folder` every so many steps (default 100) and at the end. With `resume`, go on from what is there. */
  readonly checkpoint?: {
    readonly folder: string;
    readonly every?: number;
    readonly resume?: boolean;
  } | null;
  /** How activations are kept for the backward pass. Default "keep". */
  readonly memory?: MemoryMode;
  /** Default "auto". */
  readonly backend?: BackendName | "auto";
  /** Default: all cores. */
  readonly threads?: number;
  readonly onEvent?: (event: TrainEvent | TrainStart) => void;
  /** Ends training after the step that runs, with ABORTED, once a checkpoint is saved. */
  readonly signal?: AbortSignal;
}

/** Told once, before the first step. */
export interface TrainStart {
  readonly kind: "start";
  readonly backend: string;
  /** Why "auto" took nothing faster, else null. */
  readonly reason: string | null;
  readonly model: string;
  readonly parameters: number;
  readonly steps: number;
}

export const LOOP_OPTION_NAMES: readonly (keyof LoopOptions)[] = [
  "steps",
  "length",
  "batchTokens",
  "microTokens",
  "optimiser",
  "rate",
  "warmup",
  "decay",
  "finalRate",
  "clip",
  "seed",
  "evaluation",
  "checkpoint",
  "memory",
  "backend",
  "threads",
  "onEvent",
  "signal",
];

/** The options with their defaults. Throws INVALID_ARGUMENT for values that cannot be. */
export function checkLoop(
  options: LoopOptions,
  defaults: { readonly optimiser: OptimiserName; readonly rate?: number },
) {
  const { length = 256, clip = 1, memory = "keep", backend = "auto" } = options;
  const steps = required("steps", wholeNumber("steps", options.steps, 1));
  const optimiser = withSeed(checkOptimiser(options.optimiser ?? defaults.optimiser), options.seed ?? 0);
  const known = optimiser.name === defaults.optimiser ? defaults.rate : undefined;
  const rate = options.rate ?? known ?? DEFAULT_RATES[optimiser.name];
  if (!(rate > 0 && rate < Number.POSITIVE_INFINITY)) throw invalid("rate", rate, "a number above 0");
  const { finalRate = 0.05 } = options;
  if (!(finalRate >= 0 && finalRate <= 1)) throw invalid("finalRate", finalRate, "a share from 0 to 1");
  if (clip !== null && !(clip > 0)) throw invalid("clip", clip, "a number above 0, or null");
  const warmup = wholeNumber("warmup", options.warmup, 0) ?? Math.min(1000, Math.ceil(steps / 50));
  const decay = oneOf("decay", options.decay, DECAYS) ?? "cosine";
  const { evaluation = {}, checkpoint = null } = options;
  if (checkpoint && (typeof checkpoint.folder !== "string" || checkpoint.folder === "")) {
    throw invalid("checkpoint.folder", checkpoint.folder, "the path of a folder");
  }
  return {
    steps,
    lengths: checkLengths(length),
    batchTokens: wholeNumber("batchTokens", options.batchTokens, 1) ?? 8192,
    microTokens: wholeNumber("microTokens", options.microTokens, 1) ?? 4096,
    optimiser,
    schedule: { rate, warmup, decay, final: finalRate },
    clip,
    seed: wholeNumber("seed", options.seed, 0) ?? 0,
    evaluation: evaluation && {
      every: wholeNumber("evaluation.every", evaluation.every, 1) ?? 100,
      windows: wholeNumber("evaluation.windows", evaluation.windows, 1) ?? 64,
    },
    checkpoint: checkpoint && {
      folder: checkpoint.folder,
      every: wholeNumber("checkpoint.every", checkpoint.every, 1) ?? 100,
      resume: checkpoint.resume ?? false,
    },
    memory,
    backend,
    ...(options.threads === undefined
      ? {}
      : { threads: required("threads", wholeNumber("threads", options.threads, 1)) }),
    onEvent: options.onEvent ?? (() => {}),
    ...(options.signal ? { signal: options.signal } : {}),
  };
}

function required<T>(name: string, value: T | undefined): T {
  if (value === undefined) throw invalid(name, value, "a value");
  return value;
}

/** Noise of an optimiser follows the run's seed unless it was given one. */
function withSeed(optimiser: OptimiserSpec, seed: number): OptimiserSpec {
  return "seed" in optimiser && optimiser.seed === 0 ? { ...optimiser, seed } : optimiser;
}

/**
 * Keeps a run's checkpoints to itself until it is disposed of. Throws INVALID_ARGUMENT where the folder holds a
 * checkpoint that the run does not go on from, IN_USE where another run has it, WRITE_FAILED.
 */
export async function claimCheckpoints(
  checkpoint: { readonly folder: string; readonly resume: boolean } | null,
): Promise<AsyncDisposable> {
  if (!checkpoint) return { async [Symbol.asyncDispose]() {} };
  const { folder, resume } = checkpoint;
  await makeCheckpoints(dirname(folder));
  const lock = await Lock.take(folder);
  const path = checkpointPath(folder);
  if (resume || (await statOf(path)) === null) return lock;
  await lock[Symbol.asyncDispose]();
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${path} is there already. Ask to resume, name another folder, or remove it to start anew.`,
    { path },
  );
}

/**
 * What a run shall write in the end is told from the start where it cannot be: throws INVALID_ARGUMENT for a folder at
 * the place of a file, and the other way round.
 */
export async function checkPlace(name: string, path: string, wanted: "file" | "folder"): Promise<void> {
  const stats = await statOf(path);
  if (!stats || (wanted === "folder") === stats.isDirectory()) return;
  throw invalid(
    name,
    path,
    `the path of a ${wanted} to write; a ${wanted === "file" ? "folder" : "file"} is there`,
  );
}

const statOf = (path: string): Promise<Stats | null> => stat(path).catch(() => null);

async function makeCheckpoints(path: string): Promise<void> {
  await makeFolder(path).catch((error: Error) => {
    throw new MillraceError(
      "WRITE_FAILED",
      `Cannot make the folder ${path}: ${error.message}. Choose another place for checkpoints.`,
      { path },
      { cause: error },
    );
  });
}
