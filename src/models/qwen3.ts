/**
 * Qwen3 (2505.09388): no biases; every head of q and k is normalised before it is rotated. The head width is a value
 * of its own, not the embedding width over the heads.
 */
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture } from "./contract.js";
import { DecoderWriter } from "./decoder.js";
import { huggingFaceNames } from "./names.js";
import { configureQwen, type QwenConfig } from "./qwen2.js";
import type { WeightSource } from "./weights.js";

function write(tape: TapeBuilder, config: QwenConfig, weights: WeightSource): Tape {
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
    net.feedForward(net.norm(x, `blk.${layer}.ffn_norm`), layer, { activation: "silu", addTo: x });
  }
  return net.finish(x);
}

export const qwen3: Architecture<QwenConfig> = {
  names: ["qwen3"],
  configure: configureQwen,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied }),
  write,
};
