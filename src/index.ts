/**
 * Millrace: language models on endless streams in bounded memory.
 *
 * ```ts
 * import { open } from "millrace";
 *
 * await using model = await open("model.gguf");
 * for await (const piece of model.generate("Once upon a time", { maxTokens: 200 })) {
 *   process.stdout.write(piece.text);
 * }
 * ```
 */
export type { BackendName } from "./backends/contract.js";
export type { CodecName } from "./cache/codecs/contract.js";
export type { LanePolicySpec, PolicySpec } from "./cache/policies/resolve.js";
export type { CacheEvent, CacheReport, GroupReport } from "./cache/sequence.js";
export type { GroupMap, StreamMap } from "./cache/stream-map.js";
export type { Recalled, TierReport } from "./cache/tiers/recall.js";
export type { RecallBy } from "./cache/tiers/recall-settings.js";
export type { FinishReason, TokenScore } from "./decoding/contract.js";
export { formatBytes, parseBytes } from "./engine/bytes.js";
export type { Embedding, EmbeddingInput, EmbedOptions } from "./engine/embed.js";
export { Generation, type GenerationResult, type Piece } from "./engine/generation.js";
export type { GenerateOptions, ScoreOptions, ScoreResult, TokenizeOptions } from "./engine/model.js";
export type { OpenOptions } from "./engine/open.js";
export {
  auto,
  type CacheSpec,
  compensated,
  duo,
  full,
  h2o,
  keyformer,
  kvmerger,
  lacache,
  perHead,
  perLayer,
  razor,
  recycled,
  sinks,
  snapkv,
  think,
  tokenselect,
  window,
} from "./engine/policies.js";
export type {
  EngineUsage,
  ModelInfo,
  OpenProgress,
  RenderOptions,
  SessionInfo,
  SessionReport,
} from "./engine/protocol.js";
export type { AnswerOptions, PromptInput } from "./engine/questions.js";
export { SharedMemory } from "./engine/shared-memory.js";
export type { StandingOptions } from "./engine/standing.js";
export { ERRORS, type ErrorCode, type ErrorDetails, MillraceError } from "./errors.js";
export type { Pooling } from "./models/contract.js";
export type { AnswerFormat, JsonSchema } from "./sampling/grammar/format.js";
export type { SamplingOptions } from "./sampling/options.js";
export type { TokenLogprob } from "./sampling/sampler.js";
export type { StallReport } from "./scheduler/bound-stall.js";
export { Model, open, type RestoreOptions, type SessionOptions } from "./session/model.js";
export type { RecallOptions } from "./session/recall.js";
export {
  type AppendOptions,
  type ResumeOptions,
  Session,
  type SessionAnswerOptions,
} from "./session/session.js";
export type { ChatMessage } from "./tokenizer/chat.js";
export type { Tool, ToolCall, ToolChoice } from "./tokenizer/tools/contract.js";
export type { AdapterKind } from "./train/adapters/contract.js";
export type { AdapterSpec } from "./train/adapters/resolve.js";
export type { Curve } from "./train/checkpoints.js";
export type { Window, WindowSource } from "./train/data.js";
export type { FinetuneOptions, FinetuneResult } from "./train/finetune.js";
export { type Haystack, textHaystack, worldHaystack } from "./train/gates/haystack.js";
export type { TrainGatesOptions, TrainGatesResult } from "./train/gates/train-gates.js";
export type { DecoderShape } from "./train/initialise.js";
export { finetune, train, trainGates } from "./train/lazy.js";
export type { LengthShare } from "./train/lengths.js";
export type { LoopOptions, TrainStart } from "./train/loop-options.js";
export { lossCurve } from "./train/loss-curve.js";
export type { OptimiserName } from "./train/optimisers/contract.js";
export type { OptimiserSpec } from "./train/optimisers/resolve.js";
export type { FreshModel, TrainOptions, TrainResult } from "./train/train.js";
export type { StepEvent, TrainEvent } from "./train/trainer.js";
export { type TextFilesOptions, type TrainingData, textFiles } from "./train/training-data.js";
export { type WorldDataOptions, worldData } from "./train/world-data.js";
