import { type CachePolicy, type LaneView, NOTHING, type Plan } from "./contract.js";

/** Tokens that go at a time where `tokens` come and go: a quarter of them. */
export const blockOf = (tokens: number): number => Math.max(1, Math.floor(tokens / 4));

/**
 * The bounded part of a policy that holds at most `tokens` tokens a lane and lets tokens go in blocks: whenever the
 * number of tokens seen is a multiple of `block`, as many go as the next block needs. `choose` says which `excess`
 * tokens these are (it may also move segments).
 *
 * So what a token sees depends on its place in the stream and not on how the stream was cut into steps: the same
 * prompt gives the same answer whatever else is in the batch. And a policy that scores all that it holds does so once
 * a block, not once a token. The price: what is held lies between `tokens` less a block and all of it.
 *
 * @param tokens A whole number of at least 1.
 * @param block At most `tokens`, and no more than may ever go at once. Default: a quarter of `tokens`.
 */
export function inBlocks(
  tokens: number,
  choose: (view: LaneView, excess: number) => Plan,
  block = blockOf(tokens),
): Required<Pick<CachePolicy, "capacity" | "maxIncoming" | "plan">> {
  /** Tokens seen when the first block goes. */
  const first = (Math.floor((tokens - block) / block) + 1) * block;
  return {
    capacity: (demand) => Math.min(tokens, demand.tokens),
    maxIncoming: (seen) => (seen < first ? first - seen : block - (seen % block)),
    plan(view) {
      const excess = view.length + block - tokens;
      return excess > 0 && view.seen % block === 0 ? choose(view, excess) : NOTHING;
    },
  };
}
