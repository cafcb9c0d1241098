import type { PolicyOfLane } from "../contract.js";
import { numberWithin, wholeNumber } from "./options.js";
import { sinks as keepSinks, type SinksOptions } from "./sinks.js";
import { type HeadGates, ranked, type ScoredLane, shareOf, splitHeads } from "./split.js";

export interface DuoOptions {
  /** Share of the heads that keep everything, those with the highest gates. Default 0.5, rounded up to whole heads. */
  readonly keep?: number;
  /** First tokens of the stream that the other heads keep. Default 64. */
  readonly sinks?: number;
  /** Newest tokens that they keep at most. Default 256. */
  readonly recent?: number;
}

/**
 * Heads that retrieve keep everything; all others, which stream, the first tokens and the newest ones, where they stood.
 * "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads" (arXiv 2410.10819): which
 * heads these are is trained, a gate for each (`trainGates`), and those stay whole whose gate is no lower than the
 * quantile that `keep` says, so that heads of equal gates are treated alike. A head whose gate was shut altogether
 * streams, unless `keep` is 1.
 *
 * Throws INVALID_ARGUMENT for options out of range and, once a lane is asked for, without `gates` of the model.
 */
export function duo(options: DuoOptions, gates: HeadGates | null): PolicyOfLane {
  const { keep = 0.5 } = options;
  const others = streaming(options);
  numberWithin("A duo policy's keep", keep, 0, 1);
  wholeNumber("A duo policy's sinks", others.sinks, 0);
  wholeNumber("A duo policy's recent", others.window, 1);
  return splitHeads(
    gates && retrieving(ranked(gates), keep),
    keepSinks(others),
    "The duo policy must know which heads of the model retrieve, and no gates of this model are at hand. They are " +
      "trained once, by `millrace heads --method duo MODEL`, and kept beside the model.",
  );
}

/** What the heads keep that stream. */
export function streaming({ sinks = 64, recent = 256 }: DuoOptions): Required<SinksOptions> {
  return { window: recent, sinks, positions: "original" };
}

function retrieving(lanes: readonly ScoredLane[], keep: number): readonly ScoredLane[] {
  if (keep === 1) return lanes;
  const last = lanes[shareOf(keep, lanes) - 1];
  return last ? lanes.filter(({ score }) => score > 0 && score >= last.score) : [];
}
