/**
 * Gemma 3 (2503.19786), its language half: of six layers five see a window and rotate with a base of their own, the
 * sixth sees all. Norms before and after each block, norms on the heads of q and k, GeGLU, an embedding scaled by
 * sqrt(E) and shared with the output.
 */
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape, TapeBuilder } from "../tape/tape.js";
import type { Architecture, ConfigureOptions } from "./contract.js";
import { type DecoderConfig, DecoderWriter, readDecoder } from "./decoder.js";
import { Hyperparameters } from "./hyperparameters.js";
import { huggingFaceNames } from "./names.js";
import { plainFrequencies, type RopeSpec, readRope } from "./rope.js";
import type { WeightSource } from "./weights.js";

export interface Gemma3Config extends DecoderConfig {
  readonly localRope: RopeSpec;
  readonly globalRope: RopeSpec;
  readonly window: number;
  /** Per layer: whether it sees only the window. */
  readonly local: readonly boolean[];
  readonly attentionScale: number;
}

/** What the transformers library assumes where config.json is silent. */
const DEFAULTS = {
  numHeads: 8,
  numKvHeads: 4,
  headWidth: 256,
  contextLength: 131072,
  epsilon: 1e-6,
  tied: true,
};

/** Layers of the 27B model, whose queries are scaled by E / H instead of by the head width. GGUF has no key for it. */
const LAYERS_27B = 62;

const LAYER = {
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

async function configure(checkpoint: Checkpoint, options: ConfigureOptions): Promise<Gemma3Config> {
  const values = new Hyperparameters(checkpoint);
  const decoder = readDecoder(checkpoint, values, values.format === "gguf" ? {} : DEFAULTS);
  const { numLayers, numHeads, embeddingWidth, headWidth: width, contextLength } = decoder;
  const context = options.context ?? contextLength;
  const finalCap = values.real(
    { gguf: "final_logit_softcapping", huggingFace: "final_logit_softcapping" },
    null,
  );
  values.check(
    finalCap === null,
    `logits are capped at ${finalCap}; Gemma 3 is expected to leave them uncapped.`,
  );
  const localBase = values.real(
    {
      gguf: "rope.freq_base_swa",
      huggingFace: ["rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"],
    },
    10000,
  );
  const queryScalar =
    values.format === "gguf" && numLayers === LAYERS_27B ? embeddingWidth / numHeads : width;
  return {
    ...decoder,
    localRope: { frequencies: plainFrequencies(width, localBase), magnitude: 1, style: "half" },
    globalRope: await readRope(checkpoint, values, {
      width,
      style: "half",
      contextLength,
      context,
      defaultBase: 1e6,
    }),
    window: values.integer({ gguf: "attention.sliding_window", huggingFace: "sliding_window" }),
    local: readLocalLayers(values, numLayers),
    attentionScale: values.real({ gguf: null, huggingFace: "query_pre_attn_scalar" }, queryScalar) ** -0.5,
  };
}

/** One entry per layer where the file lists them; otherwise a period, at whose end stands a layer that sees all. */
function readLocalLayers(values: Hyperparameters, numLayers: number): readonly boolean[] {
  const key = {
    gguf: "attention.sliding_window_pattern",
    huggingFace: ["sliding_window_pattern", "_sliding_window_pattern"],
  };
  const listed = values.isList(key)
    ? values.flags(key)
    : values
        .texts({ gguf: null, huggingFace: "layer_types" }, null)
        ?.map((type) => type === "sliding_attention");
  if (listed) {
    values.check(
      listed.length === numLayers,
      `${listed.length} layers are said to be local or global; expected ${numLayers}.`,
    );
    return listed;
  }
  const period = values.integer(key, 6);
  return Array.from({ length: numLayers }, (_, layer) => (layer + 1) % period !== 0);
}

function write(tape: TapeBuilder, config: Gemma3Config, weights: WeightSource): Tape {
  const net = new DecoderWriter(tape, config, weights);
  const localRope = tape.rope(config.localRope);
  const globalRope = tape.rope(config.globalRope);
  const { embeddingWidth, attentionScale: scale } = config;
  const x = net.embed(Math.sqrt(embeddingWidth));
  for (const [layer, local] of config.local.entries()) {
    const { q, k, v } = net.queriesKeysValues(net.norm(x, `blk.${layer}.attn_norm`), layer);
    net.headNorm(q, `blk.${layer}.attn_q_norm`);
    net.headNorm(k, `blk.${layer}.attn_k_norm`);
    const sight = local ? { rope: localRope, window: config.window } : { rope: globalRope, window: null };
    const heads = net.attend(q, k, v, { layer, scale, ...sight });
    const attended = net.project(heads, `blk.${layer}.attn_output`, embeddingWidth);
    net.addNormed(attended, `blk.${layer}.post_attention_norm`, x);

    const normed = net.norm(x, `blk.${layer}.ffn_norm`);
    const out = net.feedForward(normed, layer, { activation: "gelu_tanh" });
    net.addNormed(out, `blk.${layer}.post_ffw_norm`, x);
  }
  return net.finish(x);
}

export const gemma3: Architecture<Gemma3Config> = {
  names: ["gemma3", "gemma3_text"],
  configure,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied, layer: LAYER, normAdd: 1 }),
  write,
};
