/** What there is to tell about an answer, for people and for programs. */

import type { FinishReason } from "../decoding/contract.js";
import type { GenerationResult } from "../engine/generation.js";
import type { ModelInfo } from "../engine/protocol.js";
import { plural } from "./terminal.js";

/** Tokens per second; null where there was too little to measure. */
interface AnswerSpeed {
  readonly prefill: number | null;
  readonly decode: number | null;
}

/** The first token comes with the prompt's last step, so decoding made one less than were generated. */
function answerSpeed({ usage, timings }: GenerationResult): AnswerSpeed {
  const rate = (tokens: number, ms: number) => (tokens > 0 && ms > 0 ? tokens / (ms / 1000) : null);
  return {
    prefill: rate(usage.promptTokens - usage.cachedTokens, timings.prefillMs),
    decode: rate(usage.generatedTokens - 1, timings.decodeMs),
  };
}

/** The answer as one JSON object: what the API gives, with speeds and facts of the model. */
export function answerJson(result: GenerationResult, info: ModelInfo) {
  const { cache, ...answer } = result;
  return {
    ...answer,
    speed: answerSpeed(result),
    cache: { ...cache, groups: cache.groups.map((group) => ({ ...group, lanes: group.lanes.length })) },
    model: info,
  };
}

const REASONS: Record<FinishReason, string> = {
  stop: "the model ended it",
  "stop-string": "a stop text came",
  length: "as many as asked for",
  "cache-full": "the context is full",
  deadline: "the time was up",
  aborted: "stopped",
};

/** One line: tokens, speeds, why it ended, the seed to repeat it, and what the cache let go of. */
export function answerLine(result: GenerationResult): string {
  const { usage, cache, finishReason, seed } = result;
  const { prefill, decode } = answerSpeed(result);
  const at = (speed: number | null) => (speed === null ? "" : ` at ${speed.toFixed(1)}/s`);
  const parts = [
    `prompt ${plural(usage.promptTokens, "token")}${at(prefill)}`,
    `answer ${plural(usage.generatedTokens, "token")}${at(decode)}`,
    REASONS[finishReason],
    `seed ${seed}`,
  ];
  if (cache.dropped > 0) parts.push(`kept ${cache.kept} of ${cache.seen} tokens`);
  return parts.join(", ");
}
