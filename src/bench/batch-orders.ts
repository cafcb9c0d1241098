/** The same prompts in several orders: what planning a batch saves. */
import { setMaxListeners } from "node:events";
import { planBatch } from "../batch/plan.js";
import type { Model } from "../index.js";
import { createRandom } from "../sampling/random.js";

export interface BatchShape {
  readonly prompts: number;
  /** Prefixes, each shared by as many prompts. */
  readonly groups: number;
  /** Tokens of a prefix; of what follows it, each prompt's own; of an answer, on average. */
  readonly prefix: number;
  readonly suffix: number;
  readonly answer: number;
  readonly seed: number;
}

export interface BatchPrompt {
  readonly tokens: readonly number[];
  readonly answerTokens: number;
}

/** First of the ids that prompts are made of: what comes before is special in many vocabularies. */
const FIRST_ID = 300;

/** Prompts in the order in which they come: by chance. Answers are between half and one and a half times the average. */
export function sharingPrompts(shape: BatchShape, vocabularySize: number): BatchPrompt[] {
  const random = createRandom(shape.seed);
  const below = (limit: number) => Math.floor(random.next() * limit);
  const first = Math.min(FIRST_ID, vocabularySize >> 1);
  const tokens = (length: number) => Array.from({ length }, () => first + below(vocabularySize - first));
  const prefixes = Array.from({ length: shape.groups }, () => tokens(shape.prefix));
  const prompts = Array.from({ length: shape.prompts }, (_, i) => ({
    tokens: [...prefixes[i % shape.groups]!, ...tokens(shape.suffix)],
    answerTokens: Math.max(1, Math.round(shape.answer * (0.5 + random.next()))),
  }));
  for (let i = prompts.length - 1; i > 0; i--) {
    const other = below(i + 1);
    [prompts[i], prompts[other]] = [prompts[other]!, prompts[i]!];
  }
  return prompts;
}

export const BATCH_ORDERS = ["alone", "lru", "planned"] as const;
/** As they come without sharing; as they come, sharing what is still in the cache; planned, and sharing. */
export type BatchOrder = (typeof BATCH_ORDERS)[number];

export interface BatchRun {
  readonly answered: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly seconds: number;
}

export interface RunBatchOptions {
  readonly planned: boolean;
  /** Requests under way at once. */
  readonly concurrency: number;
  /** Tokens of which prefixes are shared in whole. */
  readonly page: number;
  /** Ends the run: what was answered until then counts. */
  readonly signal: AbortSignal;
  readonly onProgress?: (answered: number) => void;
}

/** Answers all prompts on `model`, which shares prefixes or not. The time is that of planning, too. */
export async function runPrompts(
  model: Model,
  prompts: readonly BatchPrompt[],
  { planned, concurrency, page, signal, onProgress }: RunBatchOptions,
): Promise<BatchRun> {
  // One for each request under way.
  setMaxListeners(0, signal);
  const startedAt = performance.now();
  const order = planned ? planBatch(prompts, page).order : prompts.keys();
  const queue = order[Symbol.iterator]();
  let [answered, promptTokens, cachedTokens, generatedTokens] = [0, 0, 0, 0];
  const worker = async (): Promise<void> => {
    for (const index of { [Symbol.iterator]: () => queue }) {
      const { tokens, answerTokens } = prompts[index]!;
      const options = { maxTokens: answerTokens, temperature: 0, ignoreEos: true, signal } as const;
      const { usage } = await model.generate(tokens, options).result;
      promptTokens += usage.promptTokens;
      cachedTokens += usage.cachedTokens;
      generatedTokens += usage.generatedTokens;
      onProgress?.(++answered);
    }
  };
  const workers = Array.from({ length: concurrency }, () =>
    worker().catch((error: unknown) => {
      if (!signal.aborted) throw error;
    }),
  );
  await Promise.all(workers);
  const seconds = (performance.now() - startedAt) / 1000;
  return { answered, promptTokens, cachedTokens, generatedTokens, seconds };
}
