/** The specification before the current one, for versions of the SDK that know no other. */
import type {
  EmbeddingModelV3,
  LanguageModelV3,
  LanguageModelV3CallOptions,
  LanguageModelV3Prompt,
} from "@ai-sdk/provider";
import type { CallOptions, SdkEmbeddingModel, SdkModel, SdkPrompt } from "./specification.js";

/** `model` under specification v3, that of version 6 of the SDK. They differ in how files are written down, and in warnings that none here gives. */
export function asV3(model: SdkModel): LanguageModelV3;
export function asV3(model: SdkEmbeddingModel): EmbeddingModelV3;
export function asV3(model: SdkModel | SdkEmbeddingModel): LanguageModelV3 | EmbeddingModelV3 {
  if ("doEmbed" in model) {
    return {
      ...model,
      specificationVersion: "v3",
      doEmbed: async (call) =>
        (await model.doEmbed(call)) as Awaited<ReturnType<EmbeddingModelV3["doEmbed"]>>,
    };
  }
  const current = (call: LanguageModelV3CallOptions): CallOptions => ({
    ...call,
    prompt: promptOf(call.prompt),
  });
  return {
    ...model,
    specificationVersion: "v3",
    doGenerate: async (call) =>
      (await model.doGenerate(current(call))) as Awaited<ReturnType<LanguageModelV3["doGenerate"]>>,
    doStream: async (call) =>
      (await model.doStream(current(call))) as Awaited<ReturnType<LanguageModelV3["doStream"]>>,
  };
}

type V3File = Extract<
  Extract<LanguageModelV3Prompt[number], { role: "user" }>["content"][number],
  { type: "file" }
>;

function promptOf(prompt: LanguageModelV3Prompt): SdkPrompt {
  return prompt.map((message) => {
    if (message.role === "system" || message.role === "tool") return message;
    const content = (message.content as readonly (V3File | { type: "text" })[]).map((part) =>
      part.type === "file" ? { ...part, data: dataOf(part.data) } : part,
    );
    return { ...message, content };
  }) as SdkPrompt;
}

const dataOf = (data: V3File["data"]) =>
  data instanceof URL ? { type: "url", url: data } : { type: "data", data };
