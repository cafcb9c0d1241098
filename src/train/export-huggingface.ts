/** How a GGUF model of the llama architecture looks to the transformers library: names, rows and files. */
import { MillraceError } from "../errors.js";
import type { Checkpoint, TensorInfo } from "../formats/checkpoint.js";
import { Hyperparameters } from "../models/hyperparameters.js";
import { configureLlama } from "../models/llama.js";
import { huggingFaceNames } from "../models/names.js";
import { halveRows } from "../models/row-order.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { huggingFaceTokenizer } from "./export-tokenizer.js";

export interface HuggingFaceModel {
  /** Where a tensor goes, and how its values are put in order; null where it is left out. */
  readonly place: (
    tensor: TensorInfo,
  ) => { name: string; reorder: ((values: Float32Array) => Float32Array) | null } | null;
  /** Text, or the file to copy, by name. */
  readonly files: ReadonlyMap<string, string | { readonly from: string }>;
}

/**
 * Throws UNSUPPORTED_ARCHITECTURE for what is not a plain decoder of the llama architecture (experts, or a stretched
 * rotary embedding), UNSUPPORTED_TOKENIZER for a tokenizer without such a form.
 */
export async function llamaToHuggingFace(
  checkpoint: Checkpoint,
  type: "F32" | "F16" | "BF16",
): Promise<HuggingFaceModel> {
  if (checkpoint.architecture !== "llama")
    throw unsupported(checkpoint, `architecture is "${checkpoint.architecture}"`);
  const config = await configureLlama(checkpoint, {});
  const values = new Hyperparameters(checkpoint);
  const stretched = ["rope.scaling.type", "rope.scaling.factor"].some((key) =>
    checkpoint.metadata.has(`llama.${key}`),
  );
  if (stretched || checkpoint.tensors.has("rope_freqs.weight")) {
    throw unsupported(checkpoint, "its rotary embedding is stretched");
  }
  if (config.experts !== null) throw unsupported(checkpoint, "it has experts");
  if (config.rope.frequencies.length * 2 !== config.headWidth) {
    throw unsupported(checkpoint, "only a part of its heads is rotated");
  }

  const tied = !checkpoint.tensors.has("output.weight");
  const names = huggingFaceNames({ prefix: "model.", tied });
  const tokenizer = resolveTokenizer(checkpoint.tokenizer);
  const dtype = { F32: "float32", F16: "float16", BF16: "bfloat16" }[type];
  const json = {
    architectures: [config.window === null ? "LlamaForCausalLM" : "MistralForCausalLM"],
    model_type: config.window === null ? "llama" : "mistral",
    vocab_size: config.vocabularySize,
    hidden_size: config.embeddingWidth,
    intermediate_size: config.feedForwardWidth,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headWidth,
    hidden_act: "silu",
    max_position_embeddings: config.contextLength,
    rms_norm_eps: config.epsilon,
    rope_theta: values.real({ gguf: "rope.freq_base", huggingFace: null }, 10000),
    ...(config.window === null ? {} : { sliding_window: config.window }),
    tie_word_embeddings: tied,
    torch_dtype: dtype,
    bos_token_id: tokenizer?.bosId ?? null,
    eos_token_id: tokenizer === null ? null : [...tokenizer.eosIds],
  };
  const files = new Map<string, string>([["config.json", `${JSON.stringify(json, null, 2)}\n`]]);
  if (checkpoint.tokenizer.kind === "gguf") {
    for (const [name, content] of Object.entries(huggingFaceTokenizer(checkpoint.tokenizer.metadata))) {
      files.set(name, `${JSON.stringify(content, null, 2)}\n`);
    }
  }
  return {
    place(tensor) {
      const name = names(tensor.name)?.tensors[0];
      if (name === undefined) return null;
      const isRotated = /\.attn_[qk]\.(weight|bias)$/.test(tensor.name);
      const columns = tensor.shape.length === 1 ? 1 : (tensor.shape[1] ?? 1);
      return {
        name,
        reorder: isRotated ? (rows) => halveRows(rows, columns, config.headWidth) : null,
      };
    },
    files,
  };
}

function unsupported(checkpoint: Checkpoint, reason: string): MillraceError {
  return new MillraceError(
    "UNSUPPORTED_ARCHITECTURE",
    `${checkpoint.path}: ${reason}; a plain decoder of architecture "llama" can be written as safetensors. Write GGUF.`,
    { path: checkpoint.path, architecture: checkpoint.architecture },
  );
}
