/**
 * Llama 1, 2, 3 and 3.1 (2302.13971, 2307.09288, 2407.21783): pre-norm attention and SwiGLU, each added onto the
 * residual stream. GGUF carries Mistral and Mixtral under this name too: with a window, or with experts.
 *
 * GGUF stores the rows of q and k permuted, so that pairs to rotate are neighbours; safetensors keeps the halves.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions } from "./contract.js";
import {
  type DecoderConfig,
  DecoderWriter,
  type ExpertsConfig,
  readDecoder,
  readExpertCounts,
  readRotaryWidth,
} from "./decoder.js";
import { Hyperparameters } from "./hyperparameters.js";
import { huggingFaceNames } from "./names.js";
import { type RopeSpec, readRope } from "./rope.js";
import type { WeightSource } from "./weights.js";

export interface LlamaConfig extends DecoderConfig {
  readonly rope: RopeSpec;
  readonly window: number | null;
  readonly experts: ExpertsConfig | null;
  readonly attentionScale: number;
}

export async function configureLlama(
  checkpoint: Checkpoint,
  options: ConfigureOptions,
): Promise<LlamaConfig> {
  const values = new Hyperparameters(checkpoint);
  const decoder = readDecoder(checkpoint, values);
  const { headWidth, contextLength } = decoder;
  return {
    ...decoder,
    rope: await readRope(checkpoint, values, {
      width: readRotaryWidth(values, headWidth),
      style: values.format === "gguf" ? "interleaved" : "half",
      contextLength,
      context: options.context ?? contextLength,
    }),
    window: values.count({ gguf: "attention.sliding_window", huggingFace: "sliding_window" }),
    experts: readMixtralExperts(values, decoder.feedForwardWidth),
    attentionScale: values.real({ gguf: "attention.scale", huggingFace: null }, 1 / Math.sqrt(headWidth)),
  };
}

/** Mixtral (2401.04088): a softmax over the chosen experts' logits, which equals normalised probabilities. */
function readMixtralExperts(values: Hyperparameters, feedForwardWidth: number): ExpertsConfig | null {
  const key = { gguf: "expert_count", huggingFace: "num_local_experts" };
  if (values.count(key) === null) return null;
  return { ...readExpertCounts(values, key), feedForwardWidth, normalize: true };
}

export function writeLlama(tape: TapeBuilder, config: LlamaConfig, weights: WeightSource): Tape {
  const net = new DecoderWriter(tape, config, weights);
  const rope = tape.rope(config.rope);
  const { window, experts, embeddingWidth, attentionScale: scale } = config;
  const x = net.embed();
  for (let layer = 0; layer < config.numLayers; layer++) {
    const { q, k, v } = net.queriesKeysValues(net.norm(x, `blk.${layer}.attn_norm`), layer);
    const heads = net.attend(q, k, v, { layer, rope, window, scale });
    net.project(heads, `blk.${layer}.attn_output`, embeddingWidth, { addTo: x });

    const normed = net.norm(x, `blk.${layer}.ffn_norm`);
    if (experts) net.expertFeedForward(normed, layer, experts, { activation: "silu", addTo: x });
    else net.feedForward(normed, layer, { activation: "silu", addTo: x });
  }
  return net.finish(x);
}

export const llama: Architecture<LlamaConfig> = {
  names: ["llama"],
  configure: configureLlama,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied }),
  write: writeLlama,
};
