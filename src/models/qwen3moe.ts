/**
 * Qwen3 mixture of experts (2505.09388): Qwen3's attention, and in every layer a router that takes the softmax over
 * all experts, then the largest few, scaled to sum to 1 where `norm_topk_prob` says so (GGUF files always mean it).
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions } from "./contract.js";
import { DecoderWriter, type ExpertsConfig, readExpertCounts } from "./decoder.js";
import { Hyperparameters } from "./hyperparameters.js";
import { huggingFaceNames } from "./names.js";
import { configureQwen, type QwenConfig } from "./qwen2.js";
import type { WeightSource } from "./weights.js";

export interface Qwen3MoeConfig extends QwenConfig {
  readonly experts: ExpertsConfig;
}

const LAYER = {
  ffn_gate_inp: "mlp.gate",
  ffn_gate_exps: "mlp.experts.{e}.gate_proj",
  ffn_up_exps: "mlp.experts.{e}.up_proj",
  ffn_down_exps: "mlp.experts.{e}.down_proj",
};

async function configure(checkpoint: Checkpoint, options: ConfigureOptions): Promise<Qwen3MoeConfig> {
  const values = new Hyperparameters(checkpoint);
  const experts = {
    ...readExpertCounts(values, {
      gguf: "expert_count",
      huggingFace: ["num_experts", "num_local_experts"],
    }),
    feedForwardWidth: values.integer({
      gguf: "expert_feed_forward_length",
      huggingFace: "moe_intermediate_size",
    }),
    normalize: values.flag(
      { gguf: "expert_weights_norm", huggingFace: "norm_topk_prob" },
      values.format === "gguf",
    ),
  };
  return { ...(await configureQwen(checkpoint, options)), experts };
}

function write(tape: TapeBuilder, config: Qwen3MoeConfig, weights: WeightSource): Tape {
  const net = new DecoderWriter(tape, config, weights);
  const rope = tape.rope(config.rope);
  const x = net.embed();
  for (let layer = 0; layer < config.numLayers; layer++) {
    const { q, k, v } = net.queriesKeysValues(net.norm(x, `blk.${layer}.attn_norm`), layer);
    net.headNorm(q, `blk.${layer}.attn_q_norm`);
    net.headNorm(k, `blk.${layer}.attn_k_norm`);
    const window = layer < config.firstWindowLayer ? null : config.window;
    const heads = net.attend(q, k, v, { layer, rope, window });
    net.project(heads, `blk.${layer}.attn_output`, config.embeddingWidth, { addTo: x });
    const normed = net.norm(x, `blk.${layer}.ffn_norm`);
    net.expertFeedForward(normed, layer, config.experts, { activation: "silu", addTo: x });
  }
  return net.finish(x);
}

export const qwen3moe: Architecture<Qwen3MoeConfig> = {
  names: ["qwen3moe", "qwen3_moe"],
  configure,
  huggingFaceNames: ({ prefix, tied, experts }) =>
    huggingFaceNames({ prefix, tied, layer: LAYER, numExperts: experts.numExperts }),
  write,
};
