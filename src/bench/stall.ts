/** How long streams wait for their next token while somebody else's prompt is run. */
import { MillraceError, type Model } from "../index.js";
import { type Quantiles, quantiles } from "./quantiles.js";

export interface StallWork {
  /** Prompt ids of streams that decode at once. */
  readonly prompts: readonly (readonly number[])[];
  /** The prompt that arrives when each of them has had `settle` tokens. */
  readonly late: readonly number[];
  readonly settle: number;
  /** Most tokens that a stream can have: its room in the cache. */
  readonly most: number;
}

/** Milliseconds since the streams were started. */
export interface StallArrivals {
  /** When each token of each stream reached the caller; until all had `settle` more after the late prompt's first token. */
  readonly times: readonly (readonly number[])[];
  /** When the late prompt was handed over, and when its first token came. */
  readonly cameAt: number;
  readonly firstAt: number;
}

export interface StallFigures {
  /** Times between two tokens of one stream, in milliseconds: those that ended before the prompt came. */
  readonly before: Quantiles;
  /** Those that overlap with the time from the prompt's coming to its first token. */
  readonly during: Quantiles;
  /** From the prompt's coming to its first token. */
  readonly firstTokenMs: number;
  /** Tokens of all streams together, per second, before and meanwhile. */
  readonly tokensPerSecondBefore: number;
  readonly tokensPerSecondDuring: number;
}

/** Our side. Throws INVALID_ARGUMENT where a stream is full before the late prompt is through, ABORTED for `signal`. */
export async function stallOf(
  model: Model,
  { prompts, late, settle, most }: StallWork,
  signal: AbortSignal,
): Promise<StallArrivals> {
  const stop = new AbortController();
  const ending = AbortSignal.any([stop.signal, signal]);
  const startedAt = performance.now();
  const times = prompts.map((): number[] => []);
  let settled = () => {};
  const waitFor = (counts: readonly number[]): Promise<void> =>
    new Promise((resolve) => {
      settled = () => {
        if (times.every((each, i) => each.length >= counts[i]!)) resolve();
      };
      settled();
    });
  const streams = prompts.map(async (prompt, i) => {
    const options = { maxTokens: most, temperature: 0, ignoreEos: true, signal: ending } as const;
    try {
      for await (const { tokens } of model.generate(prompt, options)) {
        const now = performance.now() - startedAt;
        for (const _ of tokens) times[i]!.push(now);
        settled();
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    }
    if (stop.signal.aborted) return;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `A stream had all of its ${most} tokens before the late prompt was through; give them more --room.`,
      { room: most },
    );
  });
  const failed = new Promise<never>((_, reject) => {
    for (const stream of streams) stream.catch(reject);
  });
  const measured = async (): Promise<StallArrivals> => {
    await waitFor(prompts.map(() => settle));
    const cameAt = performance.now() - startedAt;
    await model.generate(late, { maxTokens: 1, temperature: 0, ignoreEos: true, signal: ending }).result;
    const firstAt = performance.now() - startedAt;
    await waitFor(times.map((each) => each.length + settle));
    return { times: times.map((each) => [...each]), cameAt, firstAt };
  };
  try {
    return await Promise.race([measured(), failed]);
  } finally {
    stop.abort();
    await Promise.allSettled(streams);
  }
}

export function stallFigures({ times, cameAt, firstAt }: StallArrivals): StallFigures {
  const [before, during]: [number[], number[]] = [[], []];
  for (const each of times) {
    for (let i = 1; i < each.length; i++) {
      const [from, to] = [each[i - 1]!, each[i]!];
      if (to <= cameAt) before.push(to - from);
      else if (from < firstAt) during.push(to - from);
    }
  }
  /** When all of them were decoding. */
  const begin = Math.max(...times.map((each) => each[0] ?? 0));
  const rate = (from: number, to: number) =>
    (times.flat().filter((at) => at > from && at <= to).length * 1000) / (to - from);
  return {
    before: quantiles(before),
    during: quantiles(during),
    firstTokenMs: firstAt - cameAt,
    tokensPerSecondBefore: rate(begin, cameAt),
    tokensPerSecondDuring: rate(cameAt, firstAt),
  };
}
