/**
 * Phi-3 and Phi-4-mini (2404.14219, 2503.01743): q, k and v in one matrix, gate and up in another; LongRoPE's short or
 * long factors by the context that will be used; some sizes slide a window.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions } from "./contract.js";
import { type DecoderConfig, DecoderWriter, readDecoder, readRotaryWidth } from "./decoder.js";
import { Hyperparameters } from "./hyperparameters.js";
import { huggingFaceNames } from "./names.js";
import { type RopeSpec, readRope } from "./rope.js";
import type { WeightSource } from "./weights.js";

export interface Phi3Config extends DecoderConfig {
  readonly rope: RopeSpec;
  readonly window: number | null;
}

const LAYER = { attn_qkv: "self_attn.qkv_proj", ffn_up: "mlp.gate_up_proj" };

async function configure(checkpoint: Checkpoint, options: ConfigureOptions): Promise<Phi3Config> {
  const values = new Hyperparameters(checkpoint);
  const decoder = readDecoder(checkpoint, values);
  const { headWidth, contextLength } = decoder;
  return {
    ...decoder,
    rope: await readRope(checkpoint, values, {
      width: readRotaryWidth(values, headWidth),
      style: "half",
      contextLength,
      context: options.context ?? contextLength,
    }),
    window: values.count({ gguf: "attention.sliding_window", huggingFace: "sliding_window" }),
  };
}

function write(tape: TapeBuilder, config: Phi3Config, weights: WeightSource): Tape {
  const net = new DecoderWriter(tape, config, weights);
  const rope = tape.rope(config.rope);
  const { embeddingWidth, feedForwardWidth, window } = config;
  const queries = config.numHeads * config.headWidth;
  const keys = config.numKvHeads * config.headWidth;
  const x = net.embed();
  for (let layer = 0; layer < config.numLayers; layer++) {
    const normed = net.norm(x, `blk.${layer}.attn_norm`);
    const fused = (start: number, rows: number) =>
      net.project(normed, `blk.${layer}.attn_qkv`, rows, { within: { start, total: queries + 2 * keys } });
    const q = fused(0, queries);
    const k = fused(queries, keys);
    const v = fused(queries + keys, keys);
    const heads = net.attend(q, k, v, { layer, rope, window });
    net.project(heads, `blk.${layer}.attn_output`, embeddingWidth, { addTo: x });

    const inner = net.norm(x, `blk.${layer}.ffn_norm`);
    const half = (start: number) =>
      net.project(inner, `blk.${layer}.ffn_up`, feedForwardWidth, {
        within: { start, total: 2 * feedForwardWidth },
      });
    const hidden = tape.glu(half(0), half(feedForwardWidth), "silu");
    net.project(hidden, `blk.${layer}.ffn_down`, embeddingWidth, { addTo: x });
  }
  return net.finish(x);
}

export const phi3: Architecture<Phi3Config> = {
  names: ["phi3"],
  configure,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied, layer: LAYER }),
  write,
};
