/**
 * What decoder-only transformers share: reading their sizes, and the blocks that an architecture puts together.
 * A block writes operations onto the tape; which blocks stand in which order is the architecture's own file.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Activation, BufferRef, RopeRef, Tape, TapeBuilder, WeightRef } from "../tape/tape.js";
import type { ModelConfig, Pooling } from "./contract.js";
import type { Hyperparameters, Key } from "./hyperparameters.js";
import { embeddingName, tensorPrefix } from "./names.js";
import type { MatrixShape, WeightSource } from "./weights.js";

/** Sizes of a decoder. Widths in elements. */
export interface DecoderConfig extends ModelConfig {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly feedForwardWidth: number;
  /** Under the root of every RMS norm. */
  readonly epsilon: number;
  /** The output matrix is the embedding, whatever else the file holds. */
  readonly tied: boolean;
  /** What precedes safetensors names; see names.ts. */
  readonly prefix: string;
}

/** Sizes of a mixture-of-experts feed-forward. */
export interface ExpertsConfig {
  readonly numExperts: number;
  readonly numExpertsPerToken: number;
  readonly feedForwardWidth: number;
  /** Whether the chosen experts' weights are scaled to sum to 1. */
  readonly normalize: boolean;
}

/** Values for keys that the transformers library leaves out of config.json where they have its default. */
export interface DecoderDefaults {
  readonly numHeads?: number;
  readonly numKvHeads?: number;
  readonly headWidth?: number;
  readonly contextLength?: number;
  readonly epsilon?: number;
  readonly tied?: boolean;
}

const MAX_HEAD_WIDTH = 4096;

/** By GGUF's numbers from 1 on. 0 is none, and those above are for heads of classifiers, not for embeddings. */
const POOLINGS: readonly Pooling[] = ["mean", "cls", "last"];

/** Throws MISSING_METADATA naming the key, BAD_FORMAT where the sizes contradict each other. */
export function readDecoder(
  checkpoint: Checkpoint,
  values: Hyperparameters,
  defaults: DecoderDefaults = {},
): DecoderConfig {
  const given = <T>(value: T | undefined): [T] | [] => (value === undefined ? [] : [value]);
  const integer = (gguf: string, huggingFace: string, fallback?: number) =>
    values.integer({ gguf, huggingFace }, ...given(fallback));

  const embeddingWidth = integer("embedding_length", "hidden_size");
  const numHeads = integer("attention.head_count", "num_attention_heads", defaults.numHeads);
  const numKvHeads = integer(
    "attention.head_count_kv",
    "num_key_value_heads",
    defaults.numKvHeads ?? numHeads,
  );
  const headWidth = integer(
    "attention.key_length",
    "head_dim",
    defaults.headWidth ?? embeddingWidth / numHeads,
  );
  const valueWidth = values.integer({ gguf: "attention.value_length", huggingFace: null }, headWidth);
  const numLayers = integer("block_count", "num_hidden_layers");
  values.check(
    numLayers <= checkpoint.tensors.size,
    `${numLayers} layers are made of ${checkpoint.tensors.size} tensors; expected at least one a layer.`,
  );
  values.check(
    numHeads % numKvHeads === 0,
    `${numHeads} attention heads cannot share ${numKvHeads} key-value heads; expected a multiple.`,
  );
  values.check(
    Number.isInteger(headWidth) && headWidth % 2 === 0 && headWidth <= MAX_HEAD_WIDTH,
    `attention heads are ${headWidth} wide; expected an even whole number of at most ${MAX_HEAD_WIDTH}.`,
  );
  values.check(
    valueWidth === headWidth,
    `values are ${valueWidth} wide and keys ${headWidth}; expected one width for both.`,
  );
  const embedding = checkpoint.tensors.get(embeddingName(checkpoint) ?? "");
  return {
    architecture: checkpoint.architecture,
    contextLength: integer("context_length", "max_position_embeddings", defaults.contextLength),
    numLayers,
    embeddingWidth,
    // Where there is no embedding, the writer says so by its name.
    vocabularySize: embedding?.shape[0] ?? 0,
    pooling: POOLINGS[(values.count({ gguf: "pooling_type", huggingFace: null }) ?? 0) - 1] ?? null,
    numHeads,
    numKvHeads,
    headWidth,
    feedForwardWidth: integer("feed_forward_length", "intermediate_size"),
    epsilon: values.real(
      { gguf: "attention.layer_norm_rms_epsilon", huggingFace: "rms_norm_eps" },
      ...given(defaults.epsilon),
    ),
    tied: values.flag({ gguf: null, huggingFace: "tie_word_embeddings" }, defaults.tied ?? false),
    prefix: tensorPrefix(checkpoint),
  };
}

const MAX_EXPERTS = 65536;

/** How many experts there are, and how many a token visits. Throws as `readDecoder` does. */
export function readExpertCounts(
  values: Hyperparameters,
  key: Key,
): Pick<ExpertsConfig, "numExperts" | "numExpertsPerToken"> {
  const numExperts = values.integer(key);
  const perToken = { gguf: "expert_used_count", huggingFace: "num_experts_per_tok" };
  const numExpertsPerToken = values.integer(perToken);
  values.check(
    numExpertsPerToken <= numExperts && numExperts <= MAX_EXPERTS,
    `${numExpertsPerToken} of ${numExperts} experts; expected at most as many as there are, and those at most ${MAX_EXPERTS}.`,
  );
  return { numExperts, numExpertsPerToken };
}

/** Rotated elements of a head: all of them unless the file says otherwise. */
export function readRotaryWidth(values: Hyperparameters, headWidth: number): number {
  const share = values.real({ gguf: null, huggingFace: "partial_rotary_factor" }, 1);
  const width = values.integer(
    { gguf: "rope.dimension_count", huggingFace: null },
    Math.floor(headWidth * share),
  );
  values.check(
    width % 2 === 0 && width <= headWidth,
    `${width} elements of a head of ${headWidth} are rotated; expected an even number within the head.`,
  );
  return width;
}

export interface AttendOptions {
  readonly layer: number;
  readonly rope: RopeRef;
  /** Tokens that a query sees, itself included, or null for all. */
  readonly window: number | null;
  /** Factor on q . k; default 1 / sqrt(head width). */
  readonly scale?: number;
  readonly softcap?: number;
}

/** Writes a decoder's blocks onto a tape. Canonical tensor names are given without ".weight". */
export class DecoderWriter {
  readonly #tape: TapeBuilder;
  readonly #config: DecoderConfig;
  readonly #weights: WeightSource;
  readonly #embedding: WeightRef;

  constructor(tape: TapeBuilder, config: DecoderConfig, weights: WeightSource) {
    this.#tape = tape;
    this.#config = config;
    this.#weights = weights;
    const shape = { rows: config.vocabularySize, columns: config.embeddingWidth };
    this.#embedding = tape.weight(weights.matrix("token_embd.weight", shape));
  }

  /** The residual stream, [T, E]. */
  embed(scale = 1): BufferRef {
    return this.#tape.embed(this.#embedding, { scale });
  }

  /** RMS norm of whole rows, into a new buffer. */
  norm(x: BufferRef, name: string): BufferRef {
    const weight = this.#tape.vector(this.#weights.vector(`${name}.weight`, x.width));
    return this.#tape.rmsNorm(x, weight, { epsilon: this.#config.epsilon });
  }

  /** RMS norm of whole rows of x, then added onto `into`; x is overwritten. */
  addNormed(x: BufferRef, name: string, into: BufferRef): void {
    const weight = this.#tape.vector(this.#weights.vector(`${name}.weight`, x.width));
    this.#tape.add(this.#tape.rmsNorm(x, weight, { epsilon: this.#config.epsilon, inPlace: true }), into);
  }

  /** RMS norm of every head of x, in place. */
  headNorm(x: BufferRef, name: string): void {
    const width = this.#config.headWidth;
    const weight = this.#tape.vector(this.#weights.vector(`${name}.weight`, width));
    this.#tape.rmsNorm(x, weight, { epsilon: this.#config.epsilon, width, inPlace: true });
  }

  /** W x into a new buffer or onto `addTo`, plus the matrix's bias: where the checkpoint has one, or always. */
  project(
    x: BufferRef,
    name: string,
    rows: number,
    options: { within?: MatrixShape["within"]; addTo?: BufferRef; bias?: "optional" | "required" } = {},
  ): BufferRef {
    const { within, addTo, bias: need = "optional" } = options;
    const shape = { rows, columns: x.width, ...(within && { within }) };
    const weight = this.#tape.weight(this.#weights.matrix(`${name}.weight`, shape));
    const bias =
      need === "required" || this.#weights.has(`${name}.bias`)
        ? this.#tape.vector(this.#weights.vector(`${name}.bias`, rows))
        : null;
    return this.#tape.matmul(x, weight, { bias, ...(addTo && { addTo }) });
  }

  /** Queries [T, H*D], keys and values [T, K*D], from three matrices. */
  queriesKeysValues(
    x: BufferRef,
    layer: number,
    options: { bias?: "optional" | "required" } = {},
  ): { q: BufferRef; k: BufferRef; v: BufferRef } {
    const { numHeads, numKvHeads, headWidth } = this.#config;
    return {
      q: this.project(x, `blk.${layer}.attn_q`, numHeads * headWidth, options),
      k: this.project(x, `blk.${layer}.attn_k`, numKvHeads * headWidth, options),
      v: this.project(x, `blk.${layer}.attn_v`, numKvHeads * headWidth, options),
    };
  }

  /** Rotates q and k in place, stores k and v, attends; the heads' outputs [T, H*D]. */
  attend(q: BufferRef, k: BufferRef, v: BufferRef, options: AttendOptions): BufferRef {
    const { numHeads, numKvHeads, headWidth } = this.#config;
    const { layer, rope, window, scale = 1 / Math.sqrt(headWidth), softcap = 0 } = options;
    this.#tape.applyRope(q, headWidth, rope);
    this.#tape.applyRope(k, headWidth, rope);
    this.#tape.append({ layer, numKvHeads, headWidth, window }, k, v);
    return this.#tape.attention(q, { layer, numHeads, scale, softcap, rope });
  }

  /** down(activation(gate x) * up x), into a new buffer or onto `addTo`. */
  feedForward(
    x: BufferRef,
    layer: number,
    options: { activation: Activation; addTo?: BufferRef },
  ): BufferRef {
    const { feedForwardWidth, embeddingWidth } = this.#config;
    const { activation, addTo } = options;
    const gate = this.project(x, `blk.${layer}.ffn_gate`, feedForwardWidth);
    const up = this.project(x, `blk.${layer}.ffn_up`, feedForwardWidth);
    const hidden = this.#tape.glu(gate, up, activation);
    return this.project(hidden, `blk.${layer}.ffn_down`, embeddingWidth, addTo && { addTo });
  }

  /** Mixture of experts: a softmax router chooses, the chosen experts' outputs are weighted and added onto `addTo`. */
  expertFeedForward(
    x: BufferRef,
    layer: number,
    experts: ExpertsConfig,
    options: { activation: Activation; addTo: BufferRef },
  ): void {
    const { numExperts, numExpertsPerToken, feedForwardWidth, normalize } = experts;
    const router = this.project(x, `blk.${layer}.ffn_gate_inp`, numExperts);
    const route = this.#tape.route(router, { perToken: numExpertsPerToken, normalize });
    const run = (input: BufferRef, name: string, rows: number): BufferRef => {
      const shape = { experts: numExperts, rows, columns: input.width };
      const weight = this.#tape.weight(this.#weights.experts(`blk.${layer}.${name}.weight`, shape));
      return this.#tape.matmulExperts(input, weight, route);
    };
    const gate = run(x, "ffn_gate_exps", feedForwardWidth);
    const up = run(x, "ffn_up_exps", feedForwardWidth);
    const hidden = this.#tape.glu(gate, up, options.activation);
    this.#tape.combine(run(hidden, "ffn_down_exps", this.#config.embeddingWidth), route, options.addTo);
  }

  /**
   * Logits of the rows that want them, and normed states of those that want no more; ends the tape. A checkpoint without
   * an output matrix reuses its embedding.
   */
  finish(x: BufferRef): Tape {
    const { vocabularySize, epsilon } = this.#config;
    const weight = this.#tape.vector(this.#weights.vector("output_norm.weight", x.width));
    // Side by side, neither waits for the other.
    const [last, states] = [this.#tape.select(x), this.#tape.select(x, "states")];
    for (const rows of [last, states]) this.#tape.rmsNorm(rows, weight, { epsilon, inPlace: true });
    const logits = this.#weights.has("output.weight")
      ? this.project(last, "output", vocabularySize)
      : this.#tape.matmul(last, this.#embedding);
    return this.#tape.finish(logits, states);
  }
}
