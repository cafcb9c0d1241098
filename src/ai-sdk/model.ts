/** The AI SDK's language model over a loaded model: every call sends its whole conversation. */
import { basename } from "node:path";
import type { Model } from "../engine/model.js";
import { sdkError } from "./errors.js";
import { gathered, streamOf, type Turn } from "./parts.js";
import { templateMessages } from "./prompt.js";
import { settingsOf } from "./settings.js";
import { type CallOptions, PROVIDER, type SdkModel } from "./specification.js";

/** A language model of the SDK over whatever answers its calls. */
export function languageModel(modelId: string, ask: (call: CallOptions) => Promise<Turn>): SdkModel {
  const asked = async (call: CallOptions): Promise<Turn> => {
    try {
      return await ask(call);
    } catch (error) {
      throw sdkError(error, modelId, call);
    }
  };
  return {
    specificationVersion: "v4",
    provider: PROVIDER,
    modelId,
    supportedUrls: {},
    doGenerate: async (call) => gathered(await asked(call), modelId, call),
    doStream: async (call) => ({ stream: await streamOf(await asked(call), modelId, call) }),
  };
}

/** The name that the SDK knows a model by: its file's. */
export const modelIdOf = ({ info }: Pick<Model, "info">): string =>
  basename(info.path).replace(/\.(gguf|safetensors)$/, "");

/**
 * A model for `generateText`, `streamText`, `generateObject` and agents of the AI SDK, in this process. Any number of
 * calls may run at once; they share the engine's steps. The model stays the caller's to close.
 *
 * Settings that have no effect here come back as warnings; `providerOptions.millrace` takes what else `Model.generate`
 * does. Calls throw the SDK's errors, with the `MillraceError` as their cause.
 */
export function millrace(model: Pick<Model, "generate" | "info">): SdkModel {
  return languageModel(modelIdOf(model), async (call) => {
    const { options, warnings } = settingsOf(call);
    return {
      generation: model.generate(templateMessages(call.prompt), options),
      warnings,
      promptTokens: ({ usage }) => ({ total: usage.promptTokens, cached: usage.cachedTokens }),
    };
  });
}
