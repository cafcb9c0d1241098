/** What a token takes with attention sinks, and where the sliding window is computed anew for every token. */
import type { CodecName } from "../cache/codecs/contract.js";
import { sinks } from "../engine/policies.js";
import type { Model } from "../session/model.js";
import { median } from "./median.js";

export interface RecomputeResult {
  /** Tokens that are attended: sinks and window, or the recomputed window. */
  readonly window: number;
  /** Milliseconds per token: medians over the runs. */
  readonly sinksMs: number;
  readonly recomputeMs: number;
  /** recomputeMs / sinksMs: the median of the runs', each of which has both sides. */
  readonly ratio: number;
  readonly runs: readonly { readonly sinksMs: number; readonly recomputeMs: number }[];
}

export interface RecomputeOptions {
  readonly window: number;
  readonly runs: number;
  /** Tokens that are generated with sinks in each run. */
  readonly tokens: number;
  /** Windows that are computed anew in each run. */
  readonly windows: number;
  readonly codec: CodecName;
  readonly signal?: AbortSignal;
  readonly onRun?: (done: number) => void;
}

const SINKS = 4;

/**
 * The comparison of StreamingLLM (arXiv 2309.17453, figure 10): its baseline, too, forgets nothing of the window and keeps
 * nothing of earlier steps. Both sides alternate. `model` has a context of more than `window` tokens. Throws what
 * generating throws.
 */
export async function compareRecompute(
  model: Model,
  { window, runs: numRuns, tokens, windows, codec, signal, onRun }: RecomputeOptions,
): Promise<RecomputeResult> {
  const given = signal ? { signal } : {};
  const { vocabularySize } = model.info;
  const text = (from: number, count: number) =>
    Array.from({ length: count }, (_, i) => ((from + i) * 7919) % vocabularySize);
  await using session = model.session({ cache: { policy: sinks({ window: window - SINKS }), codec } });
  await session.append(text(0, 2 * window), given);
  const runs: { sinksMs: number; recomputeMs: number }[] = [];
  // The first is not counted: memory is touched and code compiled in it.
  for (let run = 0; run <= numRuns; run++) {
    const { timings, usage } = await session.generate({ maxTokens: tokens + 1, ignoreEos: true, ...given })
      .result;
    const anew: number[] = [];
    for (let i = 0; i < windows; i++) {
      const prompt = text(run * windows + i, window);
      const { timings } = await model.generate(prompt, { maxTokens: 1, ...given }).result;
      anew.push(timings.prefillMs);
    }
    const sinksMs = timings.decodeMs / (usage.generatedTokens - 1);
    if (run > 0) runs.push({ sinksMs, recomputeMs: median(anew) });
    onRun?.(run);
  }
  return {
    window,
    sinksMs: median(runs.map((each) => each.sinksMs)),
    recomputeMs: median(runs.map((each) => each.recomputeMs)),
    ratio: median(runs.map((each) => each.recomputeMs / each.sinksMs)),
    runs,
  };
}
