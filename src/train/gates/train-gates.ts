/**
 * Finds out which kv heads of a model must see all tokens, by training a gate for each on passkeys: see gated-network.ts
 * and passkeys.ts ("DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv
 * 2410.10819).
 */
import type { HeadGates } from "../../cache/policies/split.js";
import { storeHeads } from "../../engine/heads-file.js";
import { invalid, refuseUnknown, wholeNumber } from "../../engine/options.js";
import { openCheckpoint } from "../../formats/open.js";
import { buildTape } from "../../models/resolve.js";
import { openArithmetic } from "../arithmetic.js";
import { describeShape } from "../describe-shape.js";
import { checkLoop, claimCheckpoints, type LoopOptions } from "../loop-options.js";
import { layPhases } from "../phases.js";
import { runTrainer, type TrainerResult } from "../trainer.js";
import { clampGate, GatedNetwork } from "./gated-network.js";
import { type PasskeyOptions, passkeys } from "./passkeys.js";
import type { Streaming } from "./split.js";

export interface TrainGatesOptions
  extends Omit<LoopOptions, "steps" | "optimiser" | "warmup" | "decay" | "finalRate" | "clip">,
    PasskeyOptions,
    Partial<Streaming> {
  /** A GGUF file, or a file or folder of safetensors. */
  readonly model: string;
  /** Default 500; the paper takes 2,000. */
  readonly steps?: number;
  /** Factor on the mean of the gates, which shuts those of heads that need not see everything. Default 0.05. */
  readonly pressure?: number;
}

export interface TrainGatesResult extends Omit<TrainerResult, "weights"> {
  /** By layer and kv head, 0 to 1: near 1 for heads that retrieve. */
  readonly gates: HeadGates;
  /** The file that they are kept in. */
  readonly path: string;
}

const OPTION_NAMES: readonly (keyof TrainGatesOptions)[] = [
  ...(["model", "steps", "length", "batchTokens", "microTokens", "rate", "seed", "evaluation"] as const),
  ...(["checkpoint", "memory", "backend", "threads", "onEvent", "signal"] as const),
  ...(["haystack", "passkeys", "words", "sinks", "recent", "pressure"] as const),
];

/** Tokens of a window, unless the model was trained on fewer. */
const LENGTH = 1024;
/** Held-out windows that are looked at every 100 steps. */
const HELD_OUT_WINDOWS = 8;

/**
 * Trains the gates and keeps them beside the model, whose weights stay as they are stored: AdamW without decay at 0.02,
 * whose rate rises over the first fifth of the steps and falls to a tenth over the last. A step is one window unless
 * told otherwise. What `train` says of determinism, checkpoints and errors holds here too.
 */
export async function trainGates(options: TrainGatesOptions): Promise<TrainGatesResult> {
  refuseUnknown("trainGates", options, OPTION_NAMES);
  if (typeof options.model !== "string" || options.model === "") {
    throw invalid("model", options.model, "a path");
  }
  const { pressure = 0.05 } = options;
  if (!(pressure >= 0 && pressure < Number.POSITIVE_INFINITY)) {
    throw invalid("pressure", pressure, "a number of at least 0");
  }
  const sinks = wholeNumber("sinks", options.sinks, 0) ?? 64;
  const recent = wholeNumber("recent", options.recent, 1) ?? 256;
  const { haystack, passkeys: count, words, seed } = options;
  const data = passkeys({
    ...(haystack && { haystack }),
    ...(count !== undefined && { passkeys: count }),
    ...(words !== undefined && { words }),
    ...(seed !== undefined && { seed }),
  });
  await using model = await openCheckpoint(options.model);
  const { tape, config } = await buildTape(model);
  const loop = checkLoop(loopOf(options, config.contextLength), { optimiser: "adamw" });
  const { checkpoint, backend, threads, memory } = loop;
  await using _claim = await claimCheckpoints(checkpoint);
  await using laid = await layPhases(model, data, loop);
  await using opened = await openArithmetic(backend, threads);
  const { arithmetic, description, reason } = opened;
  const shape = describeShape(model, tape);
  const parameters = tape.kv.reduce((sum, { numKvHeads }) => sum + numKvHeads, 0);
  loop.onEvent({
    ...{ kind: "start", backend: description, reason, model: shape, parameters, steps: loop.steps },
  });
  const { weights, ...result } = await runTrainer({
    ...loop,
    arithmetic,
    phases: laid.phases,
    network: (length, sequences) =>
      GatedNetwork.create(arithmetic, tape, model, {
        ...{ sequences, length, memory, pressure, sinks, recent },
      }),
    fingerprint: {
      ...{ shape, data: data.name, seed: loop.seed },
      gates: JSON.stringify({ sinks, recent, pressure }),
    },
  });
  const gates = [...weights.values()].map((row) => Array.from(row, clampGate));
  return { ...result, gates, path: await storeHeads(model, { gates }) };
}

/** The loop's options, as the paper has them. */
function loopOf(options: TrainGatesOptions, trained: number): LoopOptions {
  const { steps = 500, length = Math.min(LENGTH, trained), rate = 0.02, seed } = options;
  const longest = typeof length === "number" ? length : Math.max(...length.map((each) => each.length));
  const { batchTokens = longest, microTokens = longest, checkpoint, memory, backend } = options;
  const { threads, onEvent, signal, evaluation = {} } = options;
  return {
    ...{ steps, length, batchTokens, microTokens, rate, clip: null },
    optimiser: { name: "adamw", decay: 0, beta2: 0.999 },
    ...{ warmup: Math.round(steps / 5), decay: "warmup-stable-decay", finalRate: 0.1 },
    evaluation: evaluation && { windows: HELD_OUT_WINDOWS, ...evaluation },
    ...(seed !== undefined && { seed }),
    ...(checkpoint !== undefined && { checkpoint }),
    ...(memory !== undefined && { memory }),
    ...(backend !== undefined && { backend }),
    ...(threads !== undefined && { threads }),
    ...(onEvent !== undefined && { onEvent }),
    ...(signal !== undefined && { signal }),
  };
}
