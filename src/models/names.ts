/**
 * Safetensors names of canonical (GGUF) tensor names, as the transformers library writes them. The table holds what
 * most decoders share; an architecture passes what it names otherwise.
 */
import type { Checkpoint } from "../formats/checkpoint.js";

/** Where a canonical tensor lies in a safetensors checkpoint: one tensor, or a stack of one per expert. */
export interface HuggingFaceTensor {
  readonly tensors: readonly string[];
  /** Added to every element (Gemma stores norm weights minus one). */
  readonly add?: number;
}

/** Canonical name -> safetensors; undefined where the architecture has no such tensor. */
export type HuggingFaceNames = (canonical: string) => HuggingFaceTensor | undefined;

const LAYER_TABLE: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

export interface NameOptions {
  /** What precedes "embed_tokens.weight" and "layers.": "model." in most files; see `tensorPrefix`. */
  readonly prefix: string;
  /** Names within a layer that differ from the common table; "{e}" stands for each expert in turn. */
  readonly layer?: Readonly<Record<string, string>>;
  readonly numExperts?: number;
  /** Added to the weights of all norms. */
  readonly normAdd?: number;
  /** The output matrix is the embedding, whatever else the file holds. */
  readonly tied?: boolean;
}

export function huggingFaceNames(options: NameOptions): HuggingFaceNames {
  const { prefix, numExperts = 0, normAdd = 0 } = options;
  const table = { ...LAYER_TABLE, ...options.layer };
  return (canonical) => {
    const add = canonical.endsWith("norm.weight") ? normAdd : 0;
    if (canonical === "token_embd.weight") return { tensors: [`${prefix}embed_tokens.weight`] };
    if (canonical === "output_norm.weight") return { tensors: [`${prefix}norm.weight`], add };
    if (canonical === "output.weight") return options.tied ? undefined : { tensors: [headName(prefix)] };
    const match = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(canonical);
    const name = match?.[2] === undefined ? undefined : table[match[2]];
    if (!match || name === undefined) return undefined;
    const place = `${prefix}layers.${match[1]}.${name}.${match[3]}`;
    if (!place.includes("{e}")) return { tensors: [place], add };
    return {
      tensors: Array.from({ length: numExperts }, (_, expert) => place.replace("{e}", String(expert))),
    };
  };
}

/** The head lies beside the body: "language_model.model." has its head at "language_model.lm_head.weight". */
function headName(prefix: string): string {
  return `${/^(.*\.)?model\.$/.exec(prefix)?.[1] ?? ""}lm_head.weight`;
}

/** Name of the embedding matrix, in either format; undefined where there is none. */
export function embeddingName(checkpoint: Checkpoint): string | undefined {
  if (checkpoint.format === "gguf") return "token_embd.weight";
  for (const name of checkpoint.tensors.keys()) if (/(^|\.)embed_tokens\.weight$/.test(name)) return name;
  return undefined;
}

/** What precedes "embed_tokens.weight" in a safetensors checkpoint; "model." where nothing tells. */
export function tensorPrefix(checkpoint: Checkpoint): string {
  const name = checkpoint.format === "gguf" ? undefined : embeddingName(checkpoint);
  return name === undefined ? "model." : name.slice(0, -"embed_tokens.weight".length);
}
