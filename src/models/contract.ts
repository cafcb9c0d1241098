/**
 * An architecture is a file in this folder, named as GGUF names it (`general.architecture`). It does two things:
 * reads the checkpoint's hyperparameters, and writes its operations onto a tape. It computes nothing.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { TapeBuilder, Tape } from "../tape/tape.js";
import type { WeightSource } from "./weights.js";

/** What everything outside models/ may know of a model. */
export interface ModelConfig {
  readonly architecture: string;
  /** Tokens of context that the model was trained for. */
  readonly contextLength: number;
  readonly numLayers: number;
  readonly embeddingWidth: number;
  readonly vocabularySize: number;
}

export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** Names under which checkpoints carry it: GGUF `general.architecture`, config.json `model_type`. */
  readonly names: readonly string[];
  /** Throws MISSING_METADATA naming the key. `context` is the context length that will be used. */
  configure(checkpoint: Checkpoint, options: { context?: number }): C;
  /** Safetensors name of a canonical (GGUF) tensor name; see names.ts for the common table. */
  huggingFaceNames(config: C): HuggingFaceNames;
  write(tape: TapeBuilder, config: C, weights: WeightSource): Tape;
}

/**
 * Canonical name -> where it lies in a safetensors checkpoint: one tensor, rows of a fused one, or a stack.
 * `add` is added to every element (Gemma stores norm weights minus one).
 */
export type HuggingFaceNames = (
  canonical: string,
) =>
  | readonly { readonly tensor: string; readonly rows?: readonly [start: number, count: number] }[]
  | undefined;
