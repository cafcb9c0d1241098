/** From a checkpoint to its architecture and tape. */
import { MillraceError } from "../errors.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { type Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions, ModelConfig } from "./contract.js";
import { gemma3 } from "./gemma3.js";
import { llama } from "./llama.js";
import { mistral } from "./mistral.js";
import { mixtral } from "./mixtral.js";
import { phi3 } from "./phi3.js";
import { qwen2 } from "./qwen2.js";
import { qwen3 } from "./qwen3.js";
import { qwen3moe } from "./qwen3moe.js";
import { WeightSource } from "./weights.js";

const ARCHITECTURES: readonly Architecture[] = [
  llama,
  mistral,
  mixtral,
  qwen2,
  qwen3,
  qwen3moe,
  gemma3,
  phi3,
];

/** Every name under which a checkpoint may carry a known architecture. */
export const architectureNames: readonly string[] = ARCHITECTURES.flatMap(({ names }) => names);

/** Throws UNSUPPORTED_ARCHITECTURE, naming those that are known. */
export function resolveArchitecture(checkpoint: Checkpoint): Architecture {
  const found = ARCHITECTURES.find(({ names }) => names.includes(checkpoint.architecture));
  if (found) return found;
  throw new MillraceError(
    "UNSUPPORTED_ARCHITECTURE",
    `${checkpoint.path}: architecture is "${checkpoint.architecture}"; known are ${architectureNames.join(", ")}. ` +
      "Choose a model of one of these.",
    { architecture: checkpoint.architecture, known: architectureNames },
  );
}

/**
 * Reads the checkpoint's hyperparameters and writes its tape; no weights are read but rotary factors.
 * Throws UNSUPPORTED_ARCHITECTURE, MISSING_METADATA, MISSING_TENSOR, BAD_SHAPE, BAD_FORMAT.
 */
export async function buildTape(
  checkpoint: Checkpoint,
  options: ConfigureOptions = {},
): Promise<{ config: ModelConfig; tape: Tape }> {
  const architecture = resolveArchitecture(checkpoint);
  const config = await architecture.configure(checkpoint, options);
  const weights = new WeightSource(checkpoint, architecture.huggingFaceNames(config));
  return { config, tape: architecture.write(new TapeBuilder(), config, weights) };
}
