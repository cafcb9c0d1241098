/** Fine-tuning: an adapter trained on a frozen model, which may be quantised. */
import { identify } from "../engine/identity.js";
import { invalid, refuseUnknown } from "../engine/options.js";
import type { Checkpoint, TensorType } from "../formats/checkpoint.js";
import { openCheckpoint } from "../formats/open.js";
import type { LowRanks } from "../models/low-rank.js";
import { writeAdapter } from "../models/peft.js";
import { buildTape } from "../models/resolve.js";
import type { AdapterKind } from "./adapters/contract.js";
import { ADAPTER_KINDS, type AdapterSpec, createAdapters } from "./adapters/resolve.js";
import { openArithmetic } from "./arithmetic.js";
import { describeShape } from "./describe-shape.js";
import { type ChangedTensors, exportGguf, exportSafetensors } from "./export.js";
import {
  checkLoop,
  checkPlace,
  claimCheckpoints,
  LOOP_OPTION_NAMES,
  type LoopOptions,
} from "./loop-options.js";
import { mergeAdapter } from "./merge.js";
import { Network } from "./network.js";
import { layPhases } from "./phases.js";
import { runTrainer, type TrainerResult } from "./trainer.js";
import type { TrainingData } from "./training-data.js";

export interface FinetuneOptions extends LoopOptions {
  /** A GGUF file, or a file or folder of safetensors. */
  readonly model: string;
  readonly data: TrainingData;
  /** "lora" or "paca" with their defaults (rank 16), or in detail. Default "lora". */
  readonly adapter?: AdapterKind | (Omit<AdapterSpec, "rank" | "seed"> & { readonly rank?: number });
  /** The folder into which the adapter is written, in the layout of the PEFT library. */
  readonly out: string;
  /**
   * Also writes the model with the adapter merged into it: a GGUF file, or a folder where the model is one of
   * safetensors. `type`: how matrices are stored; default as in the model, where what changed is rounded anew.
   */
  readonly merge?: { readonly path: string; readonly type?: TensorType };
}

export interface FinetuneResult extends Omit<TrainerResult, "weights"> {
  readonly out: string;
  /** Of the merged model; null where none was asked for. */
  readonly merged: string | null;
  /** Numbers that were trained. */
  readonly parameters: number;
}

const OPTION_NAMES: readonly (keyof FinetuneOptions)[] = [
  "model",
  "data",
  "adapter",
  "out",
  "merge",
  ...LOOP_OPTION_NAMES,
];

const DEFAULT_RANK = 16;

/**
 * Trains an adapter and writes it. The model's weights stay as they are stored and are decoded where they are used.
 * What `train` says of determinism, checkpoints and errors holds here too; the default optimiser is AdamW at 0.001.
 */
export async function finetune(options: FinetuneOptions): Promise<FinetuneResult> {
  const checked = checkOptions(options);
  const { data, out, merge, adapter, seed, backend, threads, memory } = checked;
  await checkPlace("out", out, "folder");
  await using _claim = await claimCheckpoints(checked.checkpoint);
  await using model = await openCheckpoint(checked.model);
  const writeMerged = merge && mergeWriter(merge, model);
  if (merge) await checkPlace("merge.path", merge.path, model.format === "gguf" ? "file" : "folder");
  const { tape } = await buildTape(model);
  await using laid = await layPhases(model, data, checked);
  await using opened = await openArithmetic(backend, threads);
  const { arithmetic, description, reason } = opened;
  const shape = describeShape(model, tape);
  const gradients = checked.optimiser.name !== "mezo";
  let lowRanks: ((weights: ReadonlyMap<string, Float32Array>) => LowRanks) | null = null;
  const { weights, ...result } = await runTrainer({
    ...checked,
    arithmetic,
    phases: laid.phases,
    async network(length, sequences) {
      const adapters = await createAdapters(arithmetic, model, adapter, { gradients });
      try {
        const network = await Network.create(arithmetic, tape, model, {
          sequences,
          length,
          memory,
          gradients,
          trainable: () => false,
          adapt: adapters.adapt,
        });
        if (!lowRanks) {
          const parameters = network.parameters.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
          const { steps } = checked;
          checked.onEvent({ kind: "start", backend: description, reason, model: shape, parameters, steps });
        }
        lowRanks = adapters.lowRanks;
        return {
          parameters: network.parameters,
          zeroGradients: () => network.zeroGradients(),
          accumulate: (batch, scale) => network.accumulate(batch, scale),
          evaluate: (batch) => network.evaluate(batch),
          dispose() {
            network.dispose();
            adapters.free();
          },
        };
      } catch (error) {
        adapters.free();
        throw error;
      }
    },
    fingerprint: {
      ...{ shape, model: (await identify(model)).model, data: data.name, ...laid.fingerprint },
      ...{ seed, adapter: JSON.stringify(adapter) },
    },
  });
  const trained = lowRanks!(weights);
  await writeAdapter(out, model, trained);
  await writeMerged?.(mergeAdapter(model, trained));
  let parameters = 0;
  for (const values of weights.values()) parameters += values.length;
  return { ...result, out, merged: merge?.path ?? null, parameters };
}

/** What writes the changed model. Throws INVALID_ARGUMENT for a type that the model's format has no room for. */
function mergeWriter(
  { path, type }: NonNullable<FinetuneOptions["merge"]>,
  model: Checkpoint,
): (changed: ChangedTensors) => Promise<void> {
  if (model.format === "gguf") return (changed) => exportGguf(path, model, changed, type ? { type } : {});
  const wanted = type ?? [...model.tensors.values()].find(({ shape }) => shape.length > 1)?.type;
  if (wanted !== "F32" && wanted !== "F16" && wanted !== "BF16") {
    throw invalid("merge.type", wanted, "F32, F16 or BF16, since the model is one of safetensors");
  }
  return (changed) => exportSafetensors(path, model, changed, { type: wanted });
}

function checkOptions(options: FinetuneOptions) {
  refuseUnknown("finetune", options, OPTION_NAMES);
  const { model, data, out, merge, adapter = "lora" } = options;
  for (const [name, path] of [
    ["model", model],
    ["out", out],
    ["merge.path", merge ? merge.path : "."],
  ] as const) {
    if (typeof path !== "string" || path === "") throw invalid(name, path, "a path");
  }
  if (typeof data?.windows !== "function") throw invalid("data", data, "textFiles(...) or another source");
  const given = typeof adapter === "string" ? { kind: adapter } : adapter;
  refuseUnknown("adapter", given, ["kind", "rank", "alpha", "targets"]);
  if (!ADAPTER_KINDS.includes(given.kind)) throw invalid("adapter", given.kind, ADAPTER_KINDS.join(" or "));
  const loop = checkLoop(options, { optimiser: "adamw", rate: 1e-3 });
  return { model, data, out, merge, adapter: { rank: DEFAULT_RANK, ...given, seed: loop.seed }, ...loop };
}
