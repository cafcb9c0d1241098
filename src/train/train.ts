/** Training from data to a model file: the public face of this room. */
import { access } from "node:fs/promises";
import type { BackendName } from "../backends/contract.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "../engine/options.js";
import { MillraceError } from "../errors.js";
import type { Checkpoint, TensorType } from "../formats/checkpoint.js";
import type { GgufValue } from "../formats/gguf-values.js";
import { openCheckpoint } from "../formats/open.js";
import { buildTape } from "../models/resolve.js";
import type { Op, Tape } from "../tape/tape.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { openArithmetic } from "./arithmetic.js";
import { checkpointPath } from "./checkpoints.js";
import { exportGguf } from "./export.js";
import { type DecoderShape, initialiseModel } from "./initialise.js";
import { checkLengths, type LengthShare, stepsOf } from "./lengths.js";
import { type MemoryMode, Network } from "./network.js";
import type { OptimiserName } from "./optimisers/contract.js";
import { checkOptimiser, DEFAULT_RATES, type OptimiserSpec } from "./optimisers/resolve.js";
import { DECAYS, type Decay } from "./rate.js";
import { trainTokenizer } from "./tokenizer.js";
import { runTrainer, type TrainEvent, type TrainerResult } from "./trainer.js";
import type { TrainingData } from "./training-data.js";

/** A model of random weights: its sizes, and a tokenizer from another GGUF model or trained on the data. */
export interface FreshModel {
  readonly shape: Omit<DecoderShape, "context"> & { readonly context?: number };
  readonly tokenizer: { readonly from: string } | { readonly vocabularySize: number };
  readonly name?: string;
}

export interface TrainOptions {
  /** A fresh model, or a GGUF model whose weights are where training starts. */
  readonly model: FreshModel | { readonly init: string };
  readonly data: TrainingData;
  /** The GGUF file that is written when training is done. */
  readonly out: string;
  /** How its matrices are stored. Default "F32". */
  readonly type?: TensorType;
  /** Updates of the weights. */
  readonly steps: number;
  /** Tokens of a window, or several lengths with their shares of the steps. Default 256. */
  readonly length?: number | readonly LengthShare[];
  /** Tokens of a step, a multiple of every length. Default 8192. */
  readonly batchTokens?: number;
  /** Most tokens that go through the network at once. Default 4096. */
  readonly microTokens?: number;
  /** Default "muon". */
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

export interface TrainResult extends Omit<TrainerResult, "weights"> {
  readonly out: string;
  readonly parameters: number;
}

const OPTION_NAMES: readonly (keyof TrainOptions)[] = [
  "model",
  "data",
  "out",
  "type",
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

/**
 * Trains a model and writes it. The caller's event loop turns between the passes; the backend's threads compute.
 *
 * The same options, data and backend give the same bits, whether or not the run was stopped and resumed in between.
 * Throws INVALID_ARGUMENT for options that cannot be, and for a folder that holds a checkpoint where `resume` was not
 * asked for; FILE_NOT_FOUND, BAD_FORMAT and their kin for data and models that cannot be read; TRAINING_DIVERGED,
 * ABORTED and WRITE_FAILED as `runTrainer` does; OUT_OF_BUDGET where memory does not suffice.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const checked = checkOptions(options);
  const { data, out, seed, backend, threads, lengths, memory } = checked;
  if (checked.checkpoint && !checked.checkpoint.resume) await refuseOccupied(checked.checkpoint.folder);
  await using model = await firstModel(checked);
  const tokenizer = resolveTokenizer(model.tokenizer);
  if (!tokenizer) {
    throw new MillraceError(
      "BAD_TOKENIZER",
      `${model.path} has no tokenizer, so no text can be made into tokens. Choose a model that has one.`,
    );
  }
  const { tape } = await buildTape(model);
  const steps = stepsOf(lengths, checked.steps);
  const phases = [];
  for (const [i, { length }] of lengths.entries()) {
    phases.push({ steps: steps[i]!, ...(await data.windows(tokenizer, length)) });
  }
  await using opened = await openArithmetic(backend, threads);
  const { arithmetic, description, reason } = opened;
  const shape = describeShape(model, tape);
  const gradients = checked.optimiser.name !== "mezo";
  const added = new Map<string, number>();
  const result = await runTrainer({
    ...checked,
    arithmetic,
    phases,
    async network(length, sequences) {
      const network = await Network.create(arithmetic, tape, model, { sequences, length, memory, gradients });
      if (added.size === 0) {
        const parameters = network.parameters.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
        const { steps } = checked;
        checked.onEvent({ kind: "start", backend: description, reason, model: shape, parameters, steps });
      }
      for (const { name, add } of network.parameters) added.set(name, add);
      return network;
    },
    fingerprint: { shape, data: data.name, seed },
  });
  const { weights, ...rest } = result;
  const changed = new Map(
    Array.from(weights, ([name, values]) => {
      const add = added.get(name) ?? 0;
      return [name, () => (add === 0 ? values : values.map((value) => value - add))] as const;
    }),
  );
  await exportGguf(out, model, changed, { type: checked.type });
  let parameters = 0;
  for (const values of weights.values()) parameters += values.length;
  return { ...rest, out, parameters };
}

type Checked = ReturnType<typeof checkOptions>;

function checkOptions(options: TrainOptions) {
  refuseUnknown("train", options, OPTION_NAMES);
  const {
    model,
    data,
    out,
    type = "F32",
    length = 256,
    clip = 1,
    memory = "keep",
    backend = "auto",
  } = options;
  if (typeof out !== "string" || out === "") throw invalid("out", out, "the path of a GGUF file to write");
  if (typeof model !== "object" || model === null || !("init" in model || "shape" in model)) {
    throw invalid("model", model, "{ init } or { shape, tokenizer }");
  }
  if (typeof data?.windows !== "function") throw invalid("data", data, "textFiles(...) or another source");
  const steps = required("steps", wholeNumber("steps", options.steps, 1));
  const optimiser = withSeed(checkOptimiser(options.optimiser ?? "muon"), options.seed ?? 0);
  const rate = options.rate ?? DEFAULT_RATES[optimiser.name];
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
    model,
    data,
    out,
    type,
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

async function refuseOccupied(folder: string): Promise<void> {
  const path = checkpointPath(folder);
  const exists = await access(path).then(
    () => true,
    () => false,
  );
  if (!exists) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${path} is there already. Ask to resume, name another folder, or remove it to start anew.`,
    { path },
  );
}

/** The checkpoint that training starts from. */
async function firstModel({ model, data, seed, lengths }: Checked): Promise<Checkpoint> {
  if ("init" in model) return openCheckpoint(model.init);
  const { shape, tokenizer, name } = model;
  const keys =
    "from" in tokenizer
      ? await tokenizerKeys(tokenizer.from)
      : await trainTokenizer(data.sample(), { ...data.tokenizer, vocabularySize: tokenizer.vocabularySize });
  const context = shape.context ?? Math.max(...lengths.map(({ length }) => length));
  return initialiseModel({ ...shape, context }, keys, { seed, ...(name === undefined ? {} : { name }) });
}

/** The keys of a GGUF model's tokenizer, as they stand there. */
async function tokenizerKeys(path: string): Promise<Record<string, GgufValue>> {
  await using checkpoint = await openCheckpoint(path);
  const entries = "entries" in checkpoint ? (checkpoint.entries as ReadonlyMap<string, GgufValue>) : null;
  const keys = [...(entries ?? [])].filter(([key]) => key.startsWith("tokenizer."));
  if (keys.length === 0) {
    throw new MillraceError(
      "BAD_TOKENIZER",
      `${path} has no tokenizer in GGUF's keys; expected a GGUF model with one.`,
      { path },
    );
  }
  return Object.fromEntries(keys);
}

/** The sizes that tell models apart, in words. */
function describeShape(model: Checkpoint, tape: Tape): string {
  const find = <Name extends Op["op"]>(name: Name) =>
    tape.ops.find((op): op is Extract<Op, { op: Name }> => op.op === name);
  const attention = find("attention");
  const kv = tape.kv[0];
  return [
    `${model.architecture}: ${tape.kv.length} layers`,
    `width ${find("embed")?.out.width}`,
    `${attention?.numHeads} heads of ${kv?.headWidth} over ${kv?.numKvHeads}`,
    `feed-forward ${find("glu")?.gate.width}`,
    `vocabulary ${tape.logits.width}`,
  ].join(", ");
}
