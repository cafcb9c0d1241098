import { inBlocks } from "../blocks.js";
import type { CachePolicy } from "../contract.js";
import { wholeNumber } from "./options.js";

/**
 * Keeps the last tokens, `tokens` at most: the plain window that "Efficient Streaming Language Models with Attention
 * Sinks" (arXiv 2309.17453) compares itself with. A token sees at least three quarters of it; see `inBlocks`.
 *
 * Throws INVALID_ARGUMENT unless `tokens` is a whole number of at least 1.
 */
export function window({ tokens }: { readonly tokens: number }): CachePolicy {
  wholeNumber("A window policy's tokens", tokens, 1);
  return {
    id: `window(tokens=${tokens})`,
    ...inBlocks(tokens, (view, excess) => {
      const slots: number[] = [];
      for (const slot of view.oldest()) {
        if (slots.length === excess) break;
        slots.push(slot);
      }
      return [{ kind: "drop", slots }];
    }),
  };
}
