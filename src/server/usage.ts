/** What a request's answers took, as `usage` tells it. */
import type { CacheReport, GenerationResult } from "../index.js";

/** Tokens that a cache policy took out of memory. */
export type Gone = Pick<CacheReport, "dropped" | "demoted" | "merged">;

export const NOTHING_GONE: Gone = { dropped: 0, demoted: 0, merged: 0 };

/** What went between two reports of one stream; what was demoted and came back, or was then dropped, is no loss twice. */
export const goneSince = (before: Gone, after: Gone): Gone => ({
  dropped: Math.max(0, after.dropped - before.dropped),
  demoted: Math.max(0, after.demoted - before.demoted),
  merged: Math.max(0, after.merged - before.merged),
});

/**
 * Tokens in and out of one request's answers, in the words of OpenAI's API; its prompts are counted once, whatever the
 * number of answers to each. All tokens are text: those of images, audio, predictions and reasoning are not told apart.
 */
export class UsageCount {
  readonly #keepsPrompts: boolean;
  #prompt = 0;
  #cached = 0;
  #completion = 0;
  #dropped = 0;
  #demoted = 0;
  #merged = 0;

  /** @param keepsPrompts What is run of a prompt is kept for others that begin as it does. */
  constructor(keepsPrompts: boolean) {
    this.#keepsPrompts = keepsPrompts;
  }

  /** @param isFirst The first answer to its prompt. */
  add(
    { usage, cache }: { readonly usage: GenerationResult["usage"]; readonly cache: Gone },
    isFirst: boolean,
  ): void {
    if (isFirst) this.#prompt += usage.promptTokens;
    if (isFirst) this.#cached += usage.cachedTokens;
    this.#completion += usage.generatedTokens;
    this.#dropped += cache.dropped;
    this.#demoted += cache.demoted;
    this.#merged += cache.merged;
  }

  get total(): number {
    return this.#prompt + this.#completion;
  }

  toJSON() {
    const anyGone = this.#dropped + this.#demoted + this.#merged > 0;
    return {
      prompt_tokens: this.#prompt,
      completion_tokens: this.#completion,
      total_tokens: this.total,
      prompt_tokens_details: {
        cached_tokens: this.#cached,
        cache_write_tokens: this.#keepsPrompts ? this.#prompt - this.#cached : 0,
        text_tokens: this.#prompt,
      },
      completion_tokens_details: { text_tokens: this.#completion },
      ...(anyGone
        ? {
            cache_details: {
              dropped_tokens: this.#dropped,
              demoted_tokens: this.#demoted,
              merged_tokens: this.#merged,
            },
          }
        : {}),
    };
  }
}

export type UsageBody = ReturnType<UsageCount["toJSON"]>;
