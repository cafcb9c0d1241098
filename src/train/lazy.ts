/** Training for those who import Millrace to do something else: the trainer is loaded when it is first called. */
import type { FinetuneOptions, FinetuneResult } from "./finetune.js";
import type { TrainGatesOptions, TrainGatesResult } from "./gates/train-gates.js";
import type { TrainOptions, TrainResult } from "./train.js";

/**
 * Trains a model and writes it. The caller's event loop turns between the passes; the backend's threads compute.
 *
 * The same options, data and backend give the same bits, whether or not the run was stopped and resumed in between.
 * Throws INVALID_ARGUMENT for options that cannot be, and for a folder that holds a checkpoint where `resume` was not
 * asked for; FILE_NOT_FOUND, BAD_FORMAT and their kin for data and models that cannot be read; TRAINING_DIVERGED where
 * a loss, gradient or weight is not finite (the last checkpoint is kept); ABORTED where the signal came, after saving;
 * WRITE_FAILED where a file cannot be written (the old one is intact); OUT_OF_BUDGET where memory does not suffice.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  return (await import("./train.js")).train(options);
}

/**
 * Trains an adapter (LoRA or PaCA) beside a model's frozen weights, which stay as they are stored, and writes it in the
 * layout of the PEFT library; `Model` applies it by name, or it is merged into a copy of the model. What `train` says
 * of determinism, checkpoints and errors holds here too.
 */
export async function finetune(options: FinetuneOptions): Promise<FinetuneResult> {
  return (await import("./finetune.js")).finetune(options);
}

/**
 * Trains a gate for each kv head beside a model's frozen weights, which says how much the head must see of all tokens,
 * and keeps the gates beside the model, where the `duo` policy finds them. What `train` says of determinism,
 * checkpoints and errors holds here too.
 */
export async function trainGates(options: TrainGatesOptions): Promise<TrainGatesResult> {
  return (await import("./gates/train-gates.js")).trainGates(options);
}
