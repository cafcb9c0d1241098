/**
 * An architecture is a file in this folder, named as GGUF names it (`general.architecture`). It does two things:
 * reads the checkpoint's hyperparameters, and writes its operations onto a tape. It computes nothing.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { HuggingFaceNames } from "./names.js";
import type { WeightSource } from "./weights.js";

/**
 * How one vector is made of a text's states: their mean, the last token's, or the first one's (where BERT puts a token
 * named CLS).
 */
export type Pooling = "mean" | "last" | "cls";

/** What everything outside models/ may know of a model. */
export interface ModelConfig {
  readonly architecture: string;
  /** Tokens of context that the model was trained for. */
  readonly contextLength: number;
  readonly numLayers: number;
  readonly embeddingWidth: number;
  readonly vocabularySize: number;
  /** How its texts were pooled when it was trained for embeddings; null where the file does not say. */
  readonly pooling: Pooling | null;
}

export interface ConfigureOptions {
  /** Tokens of context that will be used; default: the context that the model was trained for. */
  readonly context?: number;
}

export interface Architecture<C extends ModelConfig = ModelConfig> {
  /** Names under which checkpoints carry it: GGUF `general.architecture`, config.json `model_type`. */
  readonly names: readonly string[];
  /**
   * Reads hyperparameters, and the small tensors of rotary factors where the file has them.
   * Throws MISSING_METADATA naming the key, BAD_FORMAT where a value makes no sense.
   */
  configure(checkpoint: Checkpoint, options: ConfigureOptions): Promise<C>;
  /** Safetensors names of the canonical (GGUF) tensor names; see names.ts for the common table. */
  huggingFaceNames(config: C): HuggingFaceNames;
  /** Throws MISSING_TENSOR and BAD_SHAPE with names and numbers. */
  write(tape: TapeBuilder, config: C, weights: WeightSource): Tape;
}
