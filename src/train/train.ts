/** Training from data to a model file: the public face of this room. */
import { invalid, refuseUnknown } from "../engine/options.js";
import { MillraceError } from "../errors.js";
import type { Checkpoint, TensorType } from "../formats/checkpoint.js";
import type { GgufValue } from "../formats/gguf-values.js";
import { openCheckpoint } from "../formats/open.js";
import { buildTape } from "../models/resolve.js";
import { openArithmetic } from "./arithmetic.js";
import { describeShape } from "./describe-shape.js";
import { exportGguf } from "./export.js";
import { type DecoderShape, initialiseModel } from "./initialise.js";
import {
  checkLoop,
  checkPlace,
  claimCheckpoints,
  LOOP_OPTION_NAMES,
  type LoopOptions,
} from "./loop-options.js";
import { Network } from "./network.js";
import { layPhases } from "./phases.js";
import { trainTokenizer } from "./tokenizer.js";
import { runTrainer, type TrainerResult } from "./trainer.js";
import type { TrainingData } from "./training-data.js";

export type { TrainStart } from "./loop-options.js";

/** A model of random weights: its sizes, and a tokenizer from another GGUF model or trained on the data. */
export interface FreshModel {
  readonly shape: Omit<DecoderShape, "context"> & { readonly context?: number };
  readonly tokenizer: { readonly from: string } | { readonly vocabularySize: number };
  readonly name?: string;
  /** As `InitialiseOptions.lookBack`. */
  readonly lookBack?: boolean;
}

export interface TrainOptions extends LoopOptions {
  /** A fresh model, or a GGUF model whose weights are where training starts. */
  readonly model: FreshModel | { readonly init: string };
  readonly data: TrainingData;
  /** The GGUF file that is written when training is done. */
  readonly out: string;
  /** How its matrices are stored. Default "F32". */
  readonly type?: TensorType;
}

export interface TrainResult extends Omit<TrainerResult, "weights"> {
  readonly out: string;
  readonly parameters: number;
}

const OPTION_NAMES: readonly (keyof TrainOptions)[] = ["model", "data", "out", "type", ...LOOP_OPTION_NAMES];

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
  const { data, out, seed, backend, threads, memory } = checked;
  await checkPlace("out", out, "file");
  await using _claim = await claimCheckpoints(checked.checkpoint);
  await using model = await firstModel(checked);
  const { tape } = await buildTape(model);
  await using laid = await layPhases(model, data, checked);
  await using opened = await openArithmetic(backend, threads);
  const { arithmetic, description, reason } = opened;
  const shape = describeShape(model, tape);
  const gradients = checked.optimiser.name !== "mezo";
  const added = new Map<string, number>();
  const result = await runTrainer({
    ...checked,
    arithmetic,
    phases: laid.phases,
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
    fingerprint: { shape, data: data.name, ...laid.fingerprint, seed },
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
  const { model, data, out, type = "F32" } = options;
  if (typeof out !== "string" || out === "") throw invalid("out", out, "the path of a GGUF file to write");
  if (typeof model !== "object" || model === null || !("init" in model || "shape" in model)) {
    throw invalid("model", model, "{ init } or { shape, tokenizer }");
  }
  if (typeof data?.windows !== "function") throw invalid("data", data, "textFiles(...) or another source");
  return { model, data, out, type, ...checkLoop(options, { optimiser: "muon" }) };
}

/** The checkpoint that training starts from. */
async function firstModel({ model, data, seed, lengths }: Checked): Promise<Checkpoint> {
  if ("init" in model) return openCheckpoint(model.init);
  const { shape, tokenizer, name, lookBack = false } = model;
  const longest = Math.max(...lengths.map(({ length }) => length));
  const { context = longest } = shape;
  if (!(context >= longest)) {
    throw invalid("context", context, `at least the ${longest} tokens of the longest window`);
  }
  const keys =
    "from" in tokenizer
      ? await tokenizerKeys(tokenizer.from)
      : await trainTokenizer(data.sample(), { ...data.tokenizer, vocabularySize: tokenizer.vocabularySize });
  return initialiseModel({ ...shape, context }, keys, {
    seed,
    lookBack,
    ...(name === undefined ? {} : { name }),
  });
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
