/**
 * Qwen2 and Qwen2.5 (2407.10671, 2412.15115): Llama's blocks with biases on q, k and v. Some sizes set a sliding
 * window on the layers from `max_window_layers` on, and switch it off by `use_sliding_window`.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions } from "./contract.js";
import { type DecoderConfig, DecoderWriter, readDecoder, readRotaryWidth } from "./decoder.js";
import { Hyperparameters } from "./hyperparameters.js";
import { huggingFaceNames } from "./names.js";
import { type RopeSpec, readRope } from "./rope.js";
import type { WeightSource } from "./weights.js";

export interface QwenConfig extends DecoderConfig {
  readonly rope: RopeSpec;
  readonly window: number | null;
  /** Layers below this one see everything. */
  readonly firstWindowLayer: number;
}

/** Also Qwen3's, whose keys are the same. */
export async function configureQwen(checkpoint: Checkpoint, options: ConfigureOptions): Promise<QwenConfig> {
  const values = new Hyperparameters(checkpoint);
  const decoder = readDecoder(checkpoint, values);
  const { headWidth, contextLength } = decoder;
  const windowed = values.flag({ gguf: null, huggingFace: "use_sliding_window" }, false);
  return {
    ...decoder,
    rope: await readRope(checkpoint, values, {
      width: readRotaryWidth(values, headWidth),
      style: "half",
      contextLength,
      context: options.context ?? contextLength,
    }),
    window: windowed ? values.count({ gguf: null, huggingFace: "sliding_window" }) : null,
    firstWindowLayer: windowed ? values.integer({ gguf: null, huggingFace: "max_window_layers" }, 28) : 0,
  };
}

function write(tape: TapeBuilder, config: QwenConfig, weights: WeightSource): Tape {
  const net = new DecoderWriter(tape, config, weights);
  const rope = tape.rope(config.rope);
  const x = net.embed();
  for (let layer = 0; layer < config.numLayers; layer++) {
    const normed = net.norm(x, `blk.${layer}.attn_norm`);
    const { q, k, v } = net.queriesKeysValues(normed, layer, { bias: "required" });
    const window = layer < config.firstWindowLayer ? null : config.window;
    const heads = net.attend(q, k, v, { layer, rope, window });
    net.project(heads, `blk.${layer}.attn_output`, config.embeddingWidth, { addTo: x });
    net.feedForward(net.norm(x, `blk.${layer}.ffn_norm`), layer, { activation: "silu", addTo: x });
  }
  return net.finish(x);
}

export const qwen2: Architecture<QwenConfig> = {
  names: ["qwen2"],
  configure: configureQwen,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied }),
  write,
};
