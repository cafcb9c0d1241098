/** The AI SDK's embedding model over a loaded model. */
import type { EmbedOptions } from "../engine/embed.js";
import type { Model } from "../engine/model.js";
import { sdkError } from "./errors.js";
import { modelIdOf } from "./model.js";
import { embeddingOptions } from "./provider-options.js";
import {
  type EmbeddingCall,
  type EmbeddingResult,
  PROVIDER,
  type SdkEmbeddingModel,
} from "./specification.js";

/**
 * A model for `embed` and `embedMany` of the AI SDK, in this process. Lists of any length are one call, whose texts run
 * beside each other, and beside whatever else runs. The model stays the caller's to close.
 *
 * `providerOptions.millrace` takes what else `Model.embed` does. Calls throw the SDK's errors, with the `MillraceError` as
 * their cause.
 */
export function millraceEmbedding(model: Pick<Model, "embed" | "info">): SdkEmbeddingModel {
  const modelId = modelIdOf(model);
  return {
    specificationVersion: "v4",
    provider: PROVIDER,
    modelId,
    maxEmbeddingsPerCall: Number.POSITIVE_INFINITY,
    supportsParallelCalls: true,
    doEmbed: async (call) => {
      try {
        return await embed(model, call);
      } catch (error) {
        throw sdkError(error, modelId, call);
      }
    },
  };
}

async function embed(
  model: Pick<Model, "embed">,
  { values, dimensions, abortSignal, ...call }: EmbeddingCall,
): Promise<EmbeddingResult> {
  const own = embeddingOptions(call);
  const asked = { ...own, dimensions: dimensions ?? own.dimensions, signal: abortSignal };
  const given = Object.entries(asked).filter(([, value]) => value !== undefined);
  const embedded =
    values.length === 0 ? [] : await model.embed(values, Object.fromEntries(given) as EmbedOptions);
  return {
    embeddings: embedded.map(({ vector }) => [...vector]),
    usage: { tokens: embedded.reduce((sum, { numTokens }) => sum + numTokens, 0) },
    warnings: [],
  };
}
