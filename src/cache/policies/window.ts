import { MillraceError } from "../../errors.js";
import { type CachePolicy, NOTHING } from "../contract.js";

/**
 * Keeps the last `tokens` tokens (the plain window that "Efficient Streaming Language Models with Attention Sinks",
 * arXiv 2309.17453, compares itself with). Each token sees those that are kept when its step runs; once the window is
 * full, steps take at most a quarter of it, so every token sees at least three quarters.
 *
 * Throws INVALID_ARGUMENT unless `tokens` is a whole number of at least 1.
 */
export function window({ tokens }: { readonly tokens: number }): CachePolicy {
  if (!Number.isSafeInteger(tokens) || tokens < 1) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `A window of ${tokens} tokens; a whole number from 1 is wanted.`,
    );
  }
  return {
    id: `window(tokens=${tokens})`,
    capacity: (demand) => Math.min(tokens, demand.tokens),
    maxIncoming: (length) => Math.max(tokens - length, Math.ceil(tokens / 4)),
    plan(view) {
      const excess = view.length + view.incoming - tokens;
      if (excess <= 0) return NOTHING;
      const slots: number[] = [];
      for (const slot of view.oldest()) {
        slots.push(slot);
        if (slots.length === excess) break;
      }
      return [{ kind: "drop", slots }];
    },
  };
}
