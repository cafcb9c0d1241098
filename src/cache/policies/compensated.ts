import { blockOf, inBlocks } from "../blocks.js";
import type { CachePolicy, LaneView, Plan } from "../contract.js";
import { wholeNumber } from "./options.js";

export interface CompensatedOptions {
  /** Most tokens of the window. */
  readonly window: number;
  /** First tokens of the stream, which stay for ever. Default 4. */
  readonly sinks?: number;
}

/**
 * What a head keeps that does not retrieve: the first tokens, the last ones, and one token for all between, the mean
 * of their keys and values, which counts as as many tokens in the softmax: the compensation token of "RazorAttention:
 * Efficient KV Cache Compression Through Retrieval Heads" (arXiv 2407.15891). Positions stay the original ones.
 *
 * Tokens go in blocks of a quarter of the window (`inBlocks`). Throws INVALID_ARGUMENT unless `window` is a whole number
 * of at least 2 and `sinks` one of at least 0.
 */
export function compensated({ window, sinks = 4 }: CompensatedOptions): CachePolicy {
  wholeNumber("A compensated policy's window", window, 2);
  wholeNumber("A compensated policy's sinks", sinks, 0);
  return {
    id: `compensated(window=${window}, sinks=${sinks})`,
    sinks,
    merges: true,
    ...inBlocks(sinks + 1 + window, compensate, blockOf(window)),
  };
}

/** The oldest token that is no sink takes the next ones in. */
function compensate(view: LaneView, excess: number): Plan {
  const [into, ...older] = [...view.oldest()].filter((slot) => view.segmentOf(slot) === "stream");
  if (into === undefined) return [];
  const slots = older.slice(0, excess);
  const counts = [into, ...slots].map((slot) => view.countOf(slot));
  const total = counts.reduce((sum, count) => sum + count, 0);
  const shares = counts.map((count) => count / total);
  return [{ kind: "merge", into, slots, weights: Float32Array.from(view.lanes.flatMap(() => shares)) }];
}
