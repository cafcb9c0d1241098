import { MillraceError } from "../errors.js";
import type { TokenizerSource } from "../formats/checkpoint.js";
import { createBytePairEncoding } from "./bpe.js";
import type { Tokenizer } from "./contract.js";
import { createHuggingFaceTokenizer } from "./huggingface.js";
import { createSentencePiece } from "./sentencepiece.js";

/**
 * The tokenizer that a checkpoint carries; null where it has none, and only token ids can be used.
 * Throws UNSUPPORTED_TOKENIZER for a kind that is not known here, BAD_TOKENIZER for missing or contradictory data.
 */
export function resolveTokenizer(source: TokenizerSource): Tokenizer | null {
  switch (source.kind) {
    case "none":
      return null;
    case "gguf": {
      const model = source.metadata.get("tokenizer.ggml.model");
      if (model === "llama") return createSentencePiece(source.metadata);
      if (model === "gpt2") return createBytePairEncoding(source.metadata);
      if (model === undefined || model === "none") return null;
      throw new MillraceError(
        "UNSUPPORTED_TOKENIZER",
        `The checkpoint's tokenizer is "${String(model)}"; known are llama and gpt2. Token ids can still be given directly.`,
        { got: String(model), expected: ["llama", "gpt2"] },
      );
    }
    case "huggingface":
      return createHuggingFaceTokenizer(source.tokenizer, source.config);
    default:
      return source satisfies never;
  }
}
