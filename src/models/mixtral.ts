/**
 * Mixtral (2401.04088) in safetensors: Mistral's blocks with experts for a feed-forward. In GGUF it goes by the name
 * "llama".
 */
import type { Architecture } from "./contract.js";
import { configureLlama, type LlamaConfig, writeLlama } from "./llama.js";
import { huggingFaceNames } from "./names.js";

const LAYER = {
  ffn_gate_inp: "block_sparse_moe.gate",
  ffn_gate_exps: "block_sparse_moe.experts.{e}.w1",
  ffn_up_exps: "block_sparse_moe.experts.{e}.w3",
  ffn_down_exps: "block_sparse_moe.experts.{e}.w2",
};

export const mixtral: Architecture<LlamaConfig> = {
  names: ["mixtral"],
  configure: configureLlama,
  huggingFaceNames: ({ prefix, tied, experts }) =>
    huggingFaceNames({ prefix, tied, layer: LAYER, numExperts: experts?.numExperts ?? 0 }),
  write: writeLlama,
};
