/**
 * Mistral (2310.06825) in safetensors: Llama's blocks under a sliding window. In GGUF it goes by the name "llama".
 */
import type { Architecture } from "./contract.js";
import { configureLlama, type LlamaConfig, writeLlama } from "./llama.js";
import { huggingFaceNames } from "./names.js";

export const mistral: Architecture<LlamaConfig> = {
  names: ["mistral"],
  configure: configureLlama,
  huggingFaceNames: ({ prefix, tied }) => huggingFaceNames({ prefix, tied }),
  write: writeLlama,
};
