/** Replays a trace on a model: every request at its time, whether those before it are through or not. */
import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Model } from "../index.js";
import type { TracePrompt } from "./trace-prompts.js";

export interface ReplayOptions {
  /** How many times faster than the trace requests come. */
  readonly speed: number;
  /** Ends the replay: what has been answered until then counts. */
  readonly signal: AbortSignal;
  readonly onProgress?: (answered: number) => void;
}

export interface Replay {
  readonly answered: number;
  readonly promptTokens: number;
  /** Of these, tokens that were taken over from earlier prompts. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** From the first request's time to the last answer's end. */
  readonly seconds: number;
  /** Of each answered request: from its time in the trace to its first token. */
  readonly firstTokenMs: readonly number[];
}

export async function replay(
  model: Model,
  prompts: readonly TracePrompt[],
  { speed, signal, onProgress }: ReplayOptions,
): Promise<Replay> {
  // One for each request that waits for its time.
  setMaxListeners(0, signal);
  const startedAt = performance.now();
  const firstTokenMs: number[] = [];
  let [promptTokens, cachedTokens, generatedTokens, endedAt] = [0, 0, 0, startedAt];
  const ask = async ({ at, tokens, answerTokens }: TracePrompt): Promise<void> => {
    const due = startedAt + at / speed;
    await sleep(due - performance.now(), undefined, { signal });
    const generation = model.generate(tokens, {
      maxTokens: answerTokens,
      temperature: 0,
      ignoreEos: true,
      signal,
    });
    let first = Number.NaN;
    for await (const _ of generation) if (Number.isNaN(first)) first = performance.now() - due;
    const { usage } = await generation.result;
    firstTokenMs.push(first);
    promptTokens += usage.promptTokens;
    cachedTokens += usage.cachedTokens;
    generatedTokens += usage.generatedTokens;
    endedAt = performance.now();
    onProgress?.(firstTokenMs.length);
  };
  await Promise.all(
    prompts.map((prompt) =>
      ask(prompt).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      }),
    ),
  );
  return {
    answered: firstTokenMs.length,
    promptTokens,
    cachedTokens,
    generatedTokens,
    seconds: (endedAt - startedAt) / 1000,
    firstTokenMs,
  };
}
