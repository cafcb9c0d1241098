/** The AI SDK's words for what this room speaks of: types only, so that its package is needed to compile and not to run. */
import type {
  EmbeddingModelV4,
  EmbeddingModelV4CallOptions,
  EmbeddingModelV4Result,
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4GenerateResult,
  LanguageModelV4Prompt,
  LanguageModelV4StreamPart,
  LanguageModelV4StreamResult,
  LanguageModelV4Usage,
  SharedV4ProviderMetadata,
  SharedV4Warning,
} from "@ai-sdk/provider";

export type SdkModel = LanguageModelV4;
export type CallOptions = LanguageModelV4CallOptions;
export type Content = LanguageModelV4Content;
export type SdkFinishReason = LanguageModelV4FinishReason;
export type GenerateResult = LanguageModelV4GenerateResult;
export type SdkPrompt = LanguageModelV4Prompt;
export type StreamPart = LanguageModelV4StreamPart;
export type StreamResult = LanguageModelV4StreamResult;
export type SdkUsage = LanguageModelV4Usage;
export type Metadata = SharedV4ProviderMetadata;
export type SdkEmbeddingModel = EmbeddingModelV4;
export type EmbeddingCall = EmbeddingModelV4CallOptions;
export type EmbeddingResult = EmbeddingModelV4Result;
export type Warning = SharedV4Warning;

/** The name of provider options and metadata, and of the provider itself. */
export const PROVIDER = "millrace";
