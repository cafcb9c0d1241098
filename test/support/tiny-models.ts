/**
 * Tiny models with seeded random weights, one recipe per architecture (and per feature that a file may switch on),
 * under GGUF names and, the same weights, under safetensors names; tiny-files.ts makes checkpoints and files of them. A seed and a recipe name make the same bytes on every machine, so
 * fixtures hold only what a model said, never the model.
 *
 * Weights are scaled so that every part counts: attention is far from uniform, norms are far from 1, and logits
 * spread widely enough that greedy choices have clear margins.
 */
import { f32, type GgufValue, string, u32 } from "../../src/formats/gguf-values.js";
import { TestRandom } from "./random.js";
import { ggufVocabulary, VOCABULARY } from "./tiny-vocabulary.js";

export interface TinyTensor {
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export interface TinyModel {
  readonly name: string;
  /** GGUF key-value pairs, tokenizer included. */
  readonly metadata: Readonly<Record<string, GgufValue>>;
  /** By GGUF name. */
  readonly tensors: Readonly<Record<string, TinyTensor>>;
  /** The same model for safetensors. */
  readonly huggingFace: {
    readonly config: Readonly<Record<string, unknown>>;
    readonly tensors: Readonly<Record<string, TinyTensor>>;
  };
}

export { tinyCheckpoint, writeTinyGguf, writeTinySafetensors } from "./tiny-files.js";

export const TINY_SEED = 7;
const CONTEXT = 512;

interface Sizes {
  readonly numLayers: number;
  readonly embeddingWidth: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly feedForwardWidth: number;
}

const SIZES: Sizes = {
  numLayers: 2,
  embeddingWidth: 64,
  numHeads: 4,
  numKvHeads: 2,
  headWidth: 16,
  feedForwardWidth: 96,
};

/** Collects a model's tensors under both names. */
class Recipe {
  readonly gguf: Record<string, TinyTensor> = {};
  readonly huggingFace: Record<string, TinyTensor> = {};

  constructor(
    readonly seed: number,
    readonly sizes: Sizes,
    /** GGUF llama keeps the elements to rotate as neighbours; see `interleave`. */
    readonly interleaved: boolean,
  ) {}

  /** A matrix whose outputs are about `gain` in size for inputs of about 1. */
  matrix(gguf: string, huggingFace: string, rows: number, columns: number, gain = 1): void {
    const data = this.#random(gguf, rows * columns, (gain * Math.sqrt(3)) / Math.sqrt(columns));
    this.gguf[gguf] = { shape: [rows, columns], data };
    this.huggingFace[huggingFace] = { shape: [rows, columns], data };
  }

  /** A matrix of queries or keys, `heads` x headWidth rows. */
  heads(gguf: string, huggingFace: string, heads: number, gain: number): void {
    const { embeddingWidth, headWidth } = this.sizes;
    this.matrix(gguf, huggingFace, heads * headWidth, embeddingWidth, gain);
    const { shape, data } = this.gguf[gguf]!;
    if (this.interleaved) this.gguf[gguf] = { shape, data: interleave(data, headWidth, embeddingWidth) };
  }

  bias(gguf: string, huggingFace: string, width: number): void {
    const data = this.#random(gguf, width, 0.5);
    this.gguf[gguf] = { shape: [width], data };
    this.huggingFace[huggingFace] = { shape: [width], data };
  }

  /** Norm weights about `mean`, on a grid so that storing them less `minus` loses nothing. */
  norm(
    gguf: string,
    huggingFace: string,
    width: number,
    options: { mean?: number; minus?: number } = {},
  ): void {
    const { mean = 1, minus = 0 } = options;
    const data = this.#random(gguf, width, 0.5).map((x) => mean + Math.round(x * 256) / 256);
    this.gguf[gguf] = { shape: [width], data };
    this.huggingFace[huggingFace] = { shape: [width], data: data.map((x) => x - minus) };
  }

  /** One matrix per expert: stacked in GGUF, single in safetensors ("{e}" is the expert). */
  experts(gguf: string, huggingFace: string, numExperts: number, rows: number, columns: number): void {
    const size = rows * columns;
    const data = this.#random(gguf, numExperts * size, Math.sqrt(3 / columns) * 1.5);
    this.gguf[gguf] = { shape: [numExperts, rows, columns], data };
    for (let e = 0; e < numExperts; e++) {
      const part = data.subarray(e * size, (e + 1) * size);
      this.huggingFace[huggingFace.replace("{e}", String(e))] = { shape: [rows, columns], data: part };
    }
  }

  embedding(options: { tied: boolean; scale: number; prefix?: string }): void {
    const { embeddingWidth } = this.sizes;
    const { prefix = "model.", scale } = options;
    const gain = scale * Math.sqrt(embeddingWidth);
    this.matrix("token_embd.weight", `${prefix}embed_tokens.weight`, VOCABULARY, embeddingWidth, gain);
    if (!options.tied) this.matrix("output.weight", "lm_head.weight", VOCABULARY, embeddingWidth, 6);
  }

  attention(layer: number, options: { gain: number; bias?: boolean }): void {
    const { numHeads, numKvHeads, headWidth, embeddingWidth } = this.sizes;
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.self_attn.`;
    this.heads(`${at}attn_q.weight`, `${hf}q_proj.weight`, numHeads, options.gain);
    this.heads(`${at}attn_k.weight`, `${hf}k_proj.weight`, numKvHeads, options.gain);
    this.matrix(`${at}attn_v.weight`, `${hf}v_proj.weight`, numKvHeads * headWidth, embeddingWidth);
    if (options.bias) {
      this.bias(`${at}attn_q.bias`, `${hf}q_proj.bias`, numHeads * headWidth);
      this.bias(`${at}attn_k.bias`, `${hf}k_proj.bias`, numKvHeads * headWidth);
      this.bias(`${at}attn_v.bias`, `${hf}v_proj.bias`, numKvHeads * headWidth);
    }
    this.matrix(`${at}attn_output.weight`, `${hf}o_proj.weight`, embeddingWidth, numHeads * headWidth, 1.5);
  }

  feedForward(layer: number): void {
    const { embeddingWidth, feedForwardWidth } = this.sizes;
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.mlp.`;
    this.matrix(`${at}ffn_gate.weight`, `${hf}gate_proj.weight`, feedForwardWidth, embeddingWidth, 1.5);
    this.matrix(`${at}ffn_up.weight`, `${hf}up_proj.weight`, feedForwardWidth, embeddingWidth, 1.5);
    this.matrix(`${at}ffn_down.weight`, `${hf}down_proj.weight`, embeddingWidth, feedForwardWidth, 1.5);
  }

  layerNorms(layer: number): void {
    const { embeddingWidth } = this.sizes;
    const hf = `model.layers.${layer}.`;
    this.norm(`blk.${layer}.attn_norm.weight`, `${hf}input_layernorm.weight`, embeddingWidth);
    this.norm(`blk.${layer}.ffn_norm.weight`, `${hf}post_attention_layernorm.weight`, embeddingWidth);
  }

  headNorms(layer: number, minus = 0): void {
    const { headWidth } = this.sizes;
    const hf = `model.layers.${layer}.self_attn.`;
    this.norm(`blk.${layer}.attn_q_norm.weight`, `${hf}q_norm.weight`, headWidth, { minus });
    this.norm(`blk.${layer}.attn_k_norm.weight`, `${hf}k_norm.weight`, headWidth, { minus });
  }

  #random(name: string, length: number, scale: number): Float32Array {
    let hash = this.seed;
    for (const letter of name) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193);
    return new TestRandom(hash).floats(length, scale);
  }
}

/**
 * Rows of each head from halves to neighbours: row (half j, pair i) goes to 2i + j, which is how llama files are
 * converted to GGUF.
 */
function interleave(data: Float32Array, headWidth: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  const pairs = headWidth / 2;
  for (let row = 0; row < data.length / columns; row++) {
    const within = row % headWidth;
    const to = row - within + 2 * (within % pairs) + Math.floor(within / pairs);
    out.set(data.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}

interface Variant {
  /** Added to, or replacing, the GGUF keys; names without the architecture. */
  readonly metadata?: Readonly<Record<string, GgufValue>>;
  readonly config?: Readonly<Record<string, unknown>>;
  /** GGUF-only tensors (rotary factors). */
  readonly tensors?: Readonly<Record<string, TinyTensor>>;
}

function assemble(
  name: string,
  architecture: { readonly gguf: string; readonly huggingFace: string },
  recipe: Recipe,
  base: number,
  variant: Variant = {},
): TinyModel {
  const { sizes } = recipe;
  const keys: Record<string, GgufValue> = {
    block_count: u32(sizes.numLayers),
    context_length: u32(CONTEXT),
    embedding_length: u32(sizes.embeddingWidth),
    feed_forward_length: u32(sizes.feedForwardWidth),
    "attention.head_count": u32(sizes.numHeads),
    "attention.head_count_kv": u32(sizes.numKvHeads),
    "attention.key_length": u32(sizes.headWidth),
    "attention.value_length": u32(sizes.headWidth),
    "attention.layer_norm_rms_epsilon": f32(1e-5),
    "rope.freq_base": f32(base),
    "rope.dimension_count": u32(sizes.headWidth),
    ...variant.metadata,
  };
  return {
    name,
    metadata: {
      "general.architecture": string(architecture.gguf),
      "general.name": string(`tiny ${name}`),
      ...Object.fromEntries(
        Object.entries(keys).map(([key, value]) => [`${architecture.gguf}.${key}`, value]),
      ),
      ...ggufVocabulary(),
    },
    tensors: { ...recipe.gguf, ...variant.tensors },
    huggingFace: {
      config: {
        model_type: architecture.huggingFace,
        vocab_size: VOCABULARY,
        num_hidden_layers: sizes.numLayers,
        max_position_embeddings: CONTEXT,
        hidden_size: sizes.embeddingWidth,
        intermediate_size: sizes.feedForwardWidth,
        num_attention_heads: sizes.numHeads,
        num_key_value_heads: sizes.numKvHeads,
        head_dim: sizes.headWidth,
        rms_norm_eps: 1e-5,
        rope_theta: base,
        tie_word_embeddings: !("output.weight" in recipe.gguf),
        torch_dtype: "float32",
        bos_token_id: 1,
        eos_token_id: 2,
        ...variant.config,
      },
      tensors: recipe.huggingFace,
    },
  };
}

/** Llama's blocks; also those of Mistral and, but for biases, Qwen2. */
function llamaRecipe(
  seed: number,
  options: { interleaved: boolean; bias?: boolean; tied?: boolean },
): Recipe {
  const recipe = new Recipe(seed, SIZES, options.interleaved);
  recipe.embedding({ tied: options.tied ?? false, scale: 0.5 });
  for (let layer = 0; layer < SIZES.numLayers; layer++) {
    recipe.layerNorms(layer);
    recipe.attention(layer, { gain: 1.6, bias: options.bias ?? false });
    recipe.feedForward(layer);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", SIZES.embeddingWidth);
  return recipe;
}

const LLAMA = { gguf: "llama", huggingFace: "llama" };

/** 1, 1, ... then growing towards `factor`, as long-context factors look. */
function rotaryFactors(pairs: number, factor: number): Float32Array {
  return Float32Array.from({ length: pairs }, (_, i) => Math.fround(1 + ((factor - 1) * i) / (pairs - 1)));
}

const asTensor = (data: Float32Array): TinyTensor => ({ shape: [data.length], data });

/** Factors that Llama 3.1's scaling parameters mean, computed as converters do: by wavelength. */
function llama3Factors(base: number, headWidth: number): Float32Array {
  const {
    factor,
    low_freq_factor: low,
    high_freq_factor: high,
    original_max_position_embeddings: old,
  } = LLAMA3;
  return Float32Array.from({ length: headWidth / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * base ** ((2 * i) / headWidth);
    if (wavelength < old / high) return 1;
    if (wavelength > old / low) return factor;
    const smooth = (old / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

const LLAMA3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 32,
};

function llamaWithRope(seed: number, name: string, base: number, variant: Variant): TinyModel {
  return assemble(name, LLAMA, llamaRecipe(seed, { interleaved: true }), base, variant);
}

function mistral(seed: number): TinyModel {
  const recipe = llamaRecipe(seed, { interleaved: true });
  return assemble("mistral", { gguf: "llama", huggingFace: "mistral" }, recipe, 10000, {
    metadata: { "attention.sliding_window": u32(16) },
    config: { sliding_window: 16 },
  });
}

function mixtral(seed: number): TinyModel {
  const numExperts = 4;
  const { embeddingWidth: E, feedForwardWidth: F, numLayers } = SIZES;
  const recipe = new Recipe(seed, SIZES, true);
  recipe.embedding({ tied: false, scale: 0.5 });
  for (let layer = 0; layer < numLayers; layer++) {
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.block_sparse_moe.`;
    recipe.layerNorms(layer);
    recipe.attention(layer, { gain: 1.6 });
    recipe.matrix(`${at}ffn_gate_inp.weight`, `${hf}gate.weight`, numExperts, E);
    recipe.experts(`${at}ffn_gate_exps.weight`, `${hf}experts.{e}.w1.weight`, numExperts, F, E);
    recipe.experts(`${at}ffn_up_exps.weight`, `${hf}experts.{e}.w3.weight`, numExperts, F, E);
    recipe.experts(`${at}ffn_down_exps.weight`, `${hf}experts.{e}.w2.weight`, numExperts, E, F);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", E);
  return assemble("mixtral", { gguf: "llama", huggingFace: "mixtral" }, recipe, 1e6, {
    metadata: { expert_count: u32(numExperts), expert_used_count: u32(2) },
    config: { num_local_experts: numExperts, num_experts_per_tok: 2, sliding_window: null },
  });
}

function qwen2(seed: number): TinyModel {
  const recipe = llamaRecipe(seed, { interleaved: false, bias: true, tied: true });
  return assemble("qwen2", { gguf: "qwen2", huggingFace: "qwen2" }, recipe, 1e6, {
    config: { use_sliding_window: false, sliding_window: 32, max_window_layers: 1 },
  });
}

function qwen2Yarn(seed: number): TinyModel {
  const recipe = llamaRecipe(seed, { interleaved: false, bias: true });
  return assemble("qwen2-yarn", { gguf: "qwen2", huggingFace: "qwen2" }, recipe, 10000, {
    metadata: {
      "rope.scaling.type": string("yarn"),
      "rope.scaling.factor": f32(4),
      "rope.scaling.original_context_length": u32(32),
    },
    config: {
      rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32 },
      use_sliding_window: false,
    },
  });
}

const QWEN3_SIZES: Sizes = { ...SIZES, headWidth: 32 };

function qwen3(seed: number): TinyModel {
  const recipe = new Recipe(seed, QWEN3_SIZES, false);
  recipe.embedding({ tied: false, scale: 0.5 });
  for (let layer = 0; layer < QWEN3_SIZES.numLayers; layer++) {
    recipe.layerNorms(layer);
    recipe.attention(layer, { gain: 1 });
    recipe.headNorms(layer);
    recipe.feedForward(layer);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", QWEN3_SIZES.embeddingWidth);
  return assemble("qwen3", { gguf: "qwen3", huggingFace: "qwen3" }, recipe, 1e6);
}

function qwen3moe(seed: number): TinyModel {
  const numExperts = 8;
  const width = 32;
  const { embeddingWidth: E, numLayers } = QWEN3_SIZES;
  const recipe = new Recipe(seed, QWEN3_SIZES, false);
  recipe.embedding({ tied: false, scale: 0.5 });
  for (let layer = 0; layer < numLayers; layer++) {
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.mlp.`;
    recipe.layerNorms(layer);
    recipe.attention(layer, { gain: 1 });
    recipe.headNorms(layer);
    recipe.matrix(`${at}ffn_gate_inp.weight`, `${hf}gate.weight`, numExperts, E);
    recipe.experts(`${at}ffn_gate_exps.weight`, `${hf}experts.{e}.gate_proj.weight`, numExperts, width, E);
    recipe.experts(`${at}ffn_up_exps.weight`, `${hf}experts.{e}.up_proj.weight`, numExperts, width, E);
    recipe.experts(`${at}ffn_down_exps.weight`, `${hf}experts.{e}.down_proj.weight`, numExperts, E, width);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", E);
  return assemble("qwen3moe", { gguf: "qwen3moe", huggingFace: "qwen3_moe" }, recipe, 1e6, {
    metadata: {
      expert_count: u32(numExperts),
      expert_used_count: u32(3),
      expert_feed_forward_length: u32(width),
    },
    config: {
      num_experts: numExperts,
      num_experts_per_tok: 3,
      moe_intermediate_size: width,
      norm_topk_prob: true,
    },
  });
}

/**
 * Seven layers, so that the sixth sees all and the last the window again. Large norms after the blocks keep the
 * shared embedding from repeating its own token.
 */
function gemma3(seed: number): TinyModel {
  const sizes: Sizes = { ...SIZES, numLayers: 7, headWidth: 32 };
  const width = sizes.embeddingWidth;
  const recipe = new Recipe(seed, sizes, false);
  const post = { mean: 3, minus: 1 };
  recipe.embedding({ tied: true, scale: 0.2 });
  for (let layer = 0; layer < sizes.numLayers; layer++) {
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.`;
    recipe.attention(layer, { gain: 1 });
    recipe.headNorms(layer, 1);
    recipe.feedForward(layer);
    recipe.norm(`${at}attn_norm.weight`, `${hf}input_layernorm.weight`, width, { minus: 1 });
    recipe.norm(`${at}post_attention_norm.weight`, `${hf}post_attention_layernorm.weight`, width, post);
    recipe.norm(`${at}ffn_norm.weight`, `${hf}pre_feedforward_layernorm.weight`, width, { minus: 1 });
    recipe.norm(`${at}post_ffw_norm.weight`, `${hf}post_feedforward_layernorm.weight`, width, post);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", width, { mean: 4, minus: 1 });
  return assemble("gemma3", { gguf: "gemma3", huggingFace: "gemma3_text" }, recipe, 1e6, {
    metadata: {
      "attention.sliding_window": u32(16),
      "rope.scaling.type": string("linear"),
      "rope.scaling.factor": f32(8),
    },
    config: {
      sliding_window: 16,
      sliding_window_pattern: 6,
      rope_local_base_freq: 10000,
      rope_scaling: { rope_type: "linear", factor: 8 },
      query_pre_attn_scalar: sizes.headWidth,
      hidden_activation: "gelu_pytorch_tanh",
    },
  });
}

function phi3(seed: number, name: string, variant: Variant): TinyModel {
  const sizes = { ...SIZES, numKvHeads: 4 };
  const { numLayers, embeddingWidth: E, feedForwardWidth: F, headWidth, numHeads, numKvHeads } = sizes;
  const recipe = new Recipe(seed, sizes, false);
  recipe.embedding({ tied: false, scale: 0.5 });
  for (let layer = 0; layer < numLayers; layer++) {
    const at = `blk.${layer}.`;
    const hf = `model.layers.${layer}.`;
    const fused = (numHeads + 2 * numKvHeads) * headWidth;
    recipe.layerNorms(layer);
    recipe.matrix(`${at}attn_qkv.weight`, `${hf}self_attn.qkv_proj.weight`, fused, E, 1.6);
    recipe.matrix(`${at}attn_output.weight`, `${hf}self_attn.o_proj.weight`, E, numHeads * headWidth, 1.5);
    recipe.matrix(`${at}ffn_up.weight`, `${hf}mlp.gate_up_proj.weight`, 2 * F, E, 1.5);
    recipe.matrix(`${at}ffn_down.weight`, `${hf}mlp.down_proj.weight`, E, F, 1.5);
  }
  recipe.norm("output_norm.weight", "model.norm.weight", E);
  return assemble(name, { gguf: "phi3", huggingFace: "phi3" }, recipe, 10000, variant);
}

/** LongRoPE from `original` tokens to the trained context. */
function phi3Long(seed: number, name: string, original: number): TinyModel {
  const short = rotaryFactors(SIZES.headWidth / 2, 1.5);
  const long = rotaryFactors(SIZES.headWidth / 2, 6);
  const magnitude = Math.sqrt(1 + Math.log(CONTEXT / original) / Math.log(original));
  return phi3(seed, name, {
    metadata: {
      "rope.scaling.original_context_length": u32(original),
      "rope.scaling.attn_factor": f32(Math.fround(magnitude)),
    },
    tensors: { "rope_factors_short.weight": asTensor(short), "rope_factors_long.weight": asTensor(long) },
    config: {
      original_max_position_embeddings: original,
      rope_scaling: { type: "longrope", short_factor: [...short], long_factor: [...long] },
    },
  });
}

const MODELS = {
  llama: (seed) => assemble("llama", LLAMA, llamaRecipe(seed, { interleaved: true }), 10000),
  "llama-linear": (seed) =>
    llamaWithRope(seed, "llama-linear", 10000, {
      metadata: { "rope.scaling.type": string("linear"), "rope.scaling.factor": f32(4) },
      config: { rope_scaling: { type: "linear", factor: 4 } },
    }),
  "llama-3.1": (seed) =>
    llamaWithRope(seed, "llama-3.1", 500000, {
      tensors: { "rope_freqs.weight": asTensor(llama3Factors(500000, SIZES.headWidth)) },
      config: { rope_scaling: LLAMA3 },
    }),
  mistral,
  mixtral,
  qwen2,
  "qwen2-yarn": qwen2Yarn,
  qwen3,
  qwen3moe,
  gemma3,
  phi3: (seed) => phi3(seed, "phi3", { config: { sliding_window: null } }),
  "phi3-long": (seed) => phi3Long(seed, "phi3-long", 32),
  "phi3-short": (seed) => phi3Long(seed, "phi3-short", 384),
} satisfies Record<string, (seed: number) => TinyModel>;

export type TinyName = keyof typeof MODELS;

export const TINY_NAMES = Object.keys(MODELS) as TinyName[];

/** One of each architecture, and one whose rotations depend on the length. */
export const DECODER_NAMES = [
  "llama",
  "mistral",
  "mixtral",
  "qwen2",
  "qwen3",
  "qwen3moe",
  "gemma3",
  "phi3",
  "phi3-long",
] as const satisfies readonly TinyName[];

export function tinyModel(name: TinyName, seed = TINY_SEED): TinyModel {
  return MODELS[name](seed);
}

/** A prompt of `length` ids below the vocabulary's end, starting with <s>. */
export function tinyPrompt(length: number, seed = TINY_SEED): number[] {
  const random = new TestRandom(seed);
  return [1, ...Array.from({ length: length - 1 }, () => 3 + random.below(VOCABULARY - 3))];
}
