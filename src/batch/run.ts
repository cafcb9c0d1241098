/** Runs a batch: every line is answered once, in the order that shares most, however often it is interrupted. */
import { MillraceError } from "../errors.js";
import { type BatchAnswer, failure, isFailure, type Journal } from "./journal.js";
import type { BatchLine, BatchRequest } from "./lines.js";
import { planning } from "./plan.js";
import { inSlices, othersTurn } from "./slices.js";

/** What planning wants to know of a request. */
export interface Measure {
  readonly tokens: ArrayLike<number>;
  /** That the answer may come to. */
  readonly answerTokens: number;
}

/** What answers requests. */
export interface Answerer {
  /** Rejects where the request is wrong. */
  measure(request: BatchRequest): Promise<Measure>;
  /** Rejects with what makes it pointless to go on. Requests that are wrong are answered with an error. */
  answer(request: BatchRequest, signal: AbortSignal): Promise<BatchAnswer>;
}

export interface BatchOptions {
  readonly lines: readonly BatchLine[];
  readonly journal: Journal;
  readonly answerer: Answerer;
  /** Requests under way at once. */
  readonly concurrency: number;
  /** Requests that are measured at once. Default 64; fewer leave others more turns. */
  readonly measuring?: number;
  /** Tokens of the cache's pages: prefixes are shared in whole ones. */
  readonly page?: number;
  readonly signal?: AbortSignal;
  /** Told when a line has been answered. */
  readonly onProgress?: (answered: number, total: number) => void;
}

export interface BatchResult {
  readonly lines: number;
  /** Lines that had their answer before. */
  readonly before: number;
  /** Lines that this run answered, and how many of them with an error. */
  readonly answered: number;
  readonly failed: number;
  /** Tokens of the prompts that this run had to do, and of these, tokens that the plan leaves out. */
  readonly promptTokens: number;
  readonly plannedSavedTokens: number;
}

/**
 * Answers the lines that have no answer yet. Throws ABORTED for the caller's signal, WRITE_FAILED, and what `answer`
 * rejects with; what was answered until then stays, and a further run goes on from there.
 */
export async function runBatch(options: BatchOptions): Promise<BatchResult> {
  const {
    lines,
    journal,
    answerer,
    concurrency,
    measuring = MEASURED_AT_ONCE,
    page,
    signal,
    onProgress,
  } = options;
  const before = journal.answered.size;
  const open = lines.filter(({ number }) => !journal.answered.has(number));
  let failures = 0;
  const record = async (line: BatchLine, answer: BatchAnswer): Promise<void> => {
    if (isFailure(answer)) failures++;
    await journal.append(line, answer);
    onProgress?.(journal.answered.size, lines.length);
  };
  const requests: { readonly line: BatchLine; readonly request: BatchRequest }[] = [];
  for (const line of open) {
    if (line.request instanceof MillraceError) await record(line, failure(line.request));
    else requests.push({ line, request: line.request });
  }
  const measured = await measureAll(
    requests.map(({ request }) => request),
    answerer,
    measuring,
    signal,
  );
  const plan = await inSlices(planning(measured, page));

  const stop = new AbortController();
  const onAbort = () => stop.abort(new MillraceError("ABORTED", "The caller's signal ended the batch."));
  if (signal?.aborted) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const queue = plan.order.values();
    const worker = async (): Promise<void> => {
      for (const index of queue) {
        stop.signal.throwIfAborted();
        const { line, request } = requests[index]!;
        const answer = await answerer.answer(request, stop.signal);
        stop.signal.throwIfAborted();
        await record(line, answer);
      }
    };
    const workers = Array.from({ length: Math.max(1, concurrency) }, async () => {
      try {
        await worker();
      } catch (error) {
        stop.abort(error);
      }
    });
    await Promise.all(workers);
    stop.signal.throwIfAborted();
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
  return {
    lines: lines.length,
    before,
    answered: open.length,
    failed: failures,
    promptTokens: plan.promptTokens,
    plannedSavedTokens: plan.savedTokens,
  };
}

/**
 * A few at a time, with turns for others between, since a batch may be long, and what has token ids is measured in no time.
 * Those that are wrong are told so when they are asked.
 */
async function measureAll(
  requests: readonly BatchRequest[],
  answerer: Answerer,
  measuring: number,
  signal: AbortSignal | undefined,
): Promise<Measure[]> {
  const measures: Measure[] = [];
  for (let from = 0; from < requests.length && !signal?.aborted; from += measuring) {
    const some = requests.slice(from, from + measuring);
    measures.push(
      ...(await Promise.all(some.map((request) => answerer.measure(request).catch(() => UNKNOWN)))),
    );
    await othersTurn();
  }
  return measures;
}

/** Requests under way for each that runs, so that the engine never waits for the next. */
export const AHEAD = 2;
/** Tokens of which prefixes are shared in whole, when a batch is planned. */
export const PAGE = 16;
const MEASURED_AT_ONCE = 64;
const UNKNOWN: Measure = { tokens: [], answerTokens: 0 };
