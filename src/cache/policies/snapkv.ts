import { blockOf } from "../blocks.js";
import type { CachePolicy, LaneView, Scope } from "../contract.js";
import { byScore, protectNewest } from "../score.js";
import { PLACEMENTS, type Placement, placed } from "./contiguous.js";
import { checkScope, oneOf, wholeNumber } from "./options.js";

export interface SnapKvOptions {
  /** Most tokens of a lane. */
  readonly tokens: number;
  /** Newest tokens, which always stay and whose attention decides about the others; at most a quarter of `tokens`. Default 32, or that quarter. */
  readonly window?: number;
  /** Neighbours over which scores are pooled, an odd number. Default 5. */
  readonly kernel?: number;
  /** How: by their mean or their maximum. Default "mean". */
  readonly pool?: "mean" | "max";
  /** Which lanes decide together. Default "head": each alone. */
  readonly per?: Scope;
  /** Where kept tokens count as standing: where they stood, or one after another, for streams without end. Default "original". */
  readonly positions?: Placement;
}

/**
 * Keeps what the newest tokens look at, with its neighbours. "SnapKV: LLM Knows What You are
 * Looking for Before Generation" (arXiv 2404.14469) chooses once, at the end of a prompt; here the choice is made
 * anew whenever room for a block is needed (a quarter of `tokens`, see `inBlocks`), so that streams never end.
 *
 * Throws INVALID_ARGUMENT for options out of range.
 */
export function snapkv(options: SnapKvOptions): CachePolicy {
  const { tokens, kernel = 5, pool = "mean", per = "head", positions = "original" } = options;
  wholeNumber("A snapkv policy's tokens", tokens, 4);
  const block = blockOf(tokens);
  const { window = Math.min(32, block) } = options;
  wholeNumber("A snapkv policy's window", window, 1, block);
  wholeNumber("A snapkv policy's kernel", kernel, 1);
  oneOf("A snapkv policy's pool", pool, ["mean", "max"]);
  checkScope("A snapkv policy's per", per);
  oneOf("A snapkv policy's positions", positions, PLACEMENTS);
  const scored = byScore({
    id: `snapkv(tokens=${tokens}, window=${window}, kernel=${kernel}, pool=${pool}, per=${per})`,
    tokens,
    per,
    mass: { queries: window },
    score(view) {
      const score = pooled(view, window, kernel, pool);
      protectNewest(score, view, window);
      return score;
    },
  });
  return placed(scored, positions, block);
}

/** Each token's mass pooled with that of its neighbours by position; the newest `window` tokens are no neighbours. */
function pooled(view: LaneView, window: number, kernel: number, pool: "mean" | "max"): Float32Array {
  const mass = view.mass();
  const slots = [...view.oldest()].slice(0, Math.max(0, view.length - window));
  const reach = Math.floor(kernel / 2);
  const score = new Float32Array(mass.length);
  for (const [i, slot] of slots.entries()) {
    const near = slots.slice(Math.max(0, i - reach), i + reach + 1);
    const values = near.map((each) => mass[each]!);
    score[slot] =
      pool === "max" ? Math.max(...values) : values.reduce((sum, value) => sum + value, 0) / values.length;
  }
  return score;
}
