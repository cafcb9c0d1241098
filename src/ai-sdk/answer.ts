/** What is told of an answer when it has ended: why, how many tokens, and what only Millrace knows. */
import type { FinishReason, TokenScore } from "../decoding/contract.js";
import type { GenerationResult } from "../engine/generation.js";
import { type Metadata, PROVIDER, type SdkFinishReason, type SdkUsage } from "./specification.js";

const UNIFIED: Readonly<Record<FinishReason, SdkFinishReason["unified"]>> = {
  stop: "stop",
  "stop-string": "stop",
  length: "length",
  "cache-full": "length",
  deadline: "length",
  aborted: "other",
};

export function finishReason({ finishReason: raw }: GenerationResult, calledTools: boolean): SdkFinishReason {
  return { unified: calledTools && UNIFIED[raw] === "stop" ? "tool-calls" : UNIFIED[raw], raw };
}

/** Tokens of a prompt, and how many of them had been run before. */
export interface PromptTokens {
  readonly total: number;
  readonly cached: number;
}

export function usageOf({ usage }: GenerationResult, { total, cached }: PromptTokens): SdkUsage {
  return {
    inputTokens: { total, noCache: total - cached, cacheRead: cached, cacheWrite: undefined },
    outputTokens: { total: usage.generatedTokens, text: undefined, reasoning: undefined },
    raw: { ...usage },
  };
}

/** Under `providerMetadata.millrace`: how to repeat the answer, how long it took, and where every token went. */
export function metadataOf(result: GenerationResult, scores: readonly TokenScore[] | undefined): Metadata {
  const { seed, timings, cache } = result;
  const { seen, kept, merged, demoted, dropped, bytes } = cache;
  return {
    [PROVIDER]: {
      seed,
      timings: { ...timings },
      cache: { seen, kept, merged, demoted, dropped, bytes },
      ...(scores === undefined
        ? {}
        : {
            logprobs: scores.map(({ id, logprob, top }) => ({
              id,
              logprob,
              top: top.map((each) => ({ ...each })),
            })),
          }),
    },
  };
}
