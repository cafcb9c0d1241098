/** What Prometheus may read at /metrics; docs/server.md says what each is for. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { GenerationResult } from "../index.js";
import { Gaps, type GapWatcher } from "./gaps.js";
import type { ServedModel } from "./models.js";
import { snake } from "./names.js";
import type { Gone } from "./usage.js";

/** Seconds: from a fast answer's parts to a slow one's whole. */
const SHORT = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
const LONG = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120];

/** What became of the tokens of one answer. */
type Answered = Pick<GenerationResult, "timings" | "usage" | "finishReason"> & { readonly cache: Gone };

export class Metrics {
  readonly registry = new Registry();
  readonly #http = this.#counter("http_requests_total", "Requests by route and status.", ["route", "status"]);
  readonly #seconds = this.#histogram(
    "http_request_seconds",
    "From a request to the end of its answer.",
    LONG,
    ["route"],
  );
  readonly #answers = this.#counter("answers_total", "Answers by what ended them.", ["model", "finish"]);
  readonly #first = this.#histogram("time_to_first_token_seconds", "Waiting and prefill.", LONG, ["model"]);
  readonly #each = this.#histogram("time_per_output_token_seconds", "From a token to the next.", SHORT, [
    "model",
  ]);
  readonly #waited = this.#histogram("queue_seconds", "Waiting before an answer was begun.", LONG, ["model"]);
  readonly #prompt = this.#counter("prompt_tokens_total", "Tokens of prompts.", ["model"]);
  readonly #cached = this.#counter("prompt_tokens_cached_total", "Those that were in the cache already.", [
    "model",
  ]);
  readonly #generated = this.#counter("generated_tokens_total", "Tokens of answers.", ["model"]);
  readonly #embeddings = this.#counter("embeddings_total", "Texts that were embedded.", ["model"]);
  readonly #evicted = this.#counter(
    "evicted_tokens_total",
    "Tokens that cache policies took out of memory.",
    ["model", "fate"],
  );
  readonly #crashes = this.#counter("engine_crashes_total", "Engines whose worker died.", ["model"]);
  readonly #reopened = this.#counter("engine_reopened_total", "Engines opened again after a crash.", [
    "model",
  ]);
  readonly #sessionsLost = this.#counter("sessions_lost_total", "Sessions that died with their engine.", [
    "model",
  ]);
  readonly #between = this.#histogram(
    "time_between_pieces_seconds",
    "From a piece of a streamed answer to the next.",
    SHORT,
    ["model"],
  );
  readonly #gaps = new Gaps();
  #process = false;

  /** Adds the figures of the process: memory, processor time, event loop delay. */
  watchProcess(): void {
    if (!this.#process) collectDefaultMetrics({ register: this.registry });
    this.#process = true;
  }

  /** Adds the figures that are read from the models when somebody asks. */
  watchModels(models: readonly ServedModel[]): void {
    const running = this.#gauge("requests_running", "Requests and sessions in the engine's steps.");
    const waiting = this.#gauge("requests_waiting", "Requests that wait for room.");
    const pages = this.#gauge("cache_pages", "Pages of keys and values, by state.", ["model", "state"]);
    const used = this.#gauge("cache_used_bytes", "Bytes of pages in use.");
    const total = this.#gauge("cache_bytes", "Bytes that pages may take in all: a hard limit.");
    const prefix = this.#gauge(
      "prefix_cache",
      "What requests that begin alike share; counts are since the start.",
      ["model", "figure"],
    );
    const stalls = this.#gauge(
      "prefill_stalls",
      "How the bound on stalls is kept; counts are since the start.",
      ["model", "figure"],
    );
    const weights = this.#gauge("weight_bytes", "Bytes of weights.");
    const up = this.#gauge("engine_up", "1 where the engine can be asked, 0 after a crash.");
    const budget = this.#gauge(
      "memory_budget_bytes",
      "The hard limit on weights, cache and scratch, where there is one.",
    );
    for (const { name: model, info } of models) {
      weights.set({ model }, info.memory.weightBytes);
      if (info.memory.budgetBytes !== null) budget.set({ model }, info.memory.budgetBytes);
    }
    const read = async () => {
      await Promise.all(
        models.map(async (served) => {
          const model = served.name;
          const usage = await served.usage();
          up.set({ model }, usage === null ? 0 : 1);
          if (usage === null) return;
          running.set({ model }, usage.running);
          waiting.set({ model }, usage.waiting);
          pages.set({ model, state: "used" }, usage.used);
          pages.set({ model, state: "free" }, usage.free);
          pages.set({ model, state: "shared" }, usage.shared);
          used.set({ model }, usage.used * usage.pageBytes);
          total.set({ model }, usage.pages * usage.pageBytes);
          for (const [gauge, report] of [
            [prefix, usage.prefix],
            [stalls, usage.stalls],
          ] as const) {
            for (const [figure, value] of Object.entries(report ?? {})) {
              if (typeof value === "number") gauge.set({ model, figure: snake(figure) }, value);
            }
          }
        }),
      );
    };
    this.#beforeReading.push(read);
  }

  /** Times between pieces of answers, from now on. */
  watchGaps(): GapWatcher {
    return this.#gaps.watch();
  }

  /** A piece of an answer came so long after the one before. */
  gap(model: string, ms: number): void {
    this.#between.observe({ model }, ms / 1000);
    this.#gaps.saw(ms);
  }

  /** Adds a figure that is read when somebody asks. */
  watch(name: string, help: string, read: () => number): void {
    const gauge = new Gauge({ name: `millrace_${name}`, help, registers: [this.registry] });
    this.#beforeReading.push(async () => gauge.set(read()));
  }

  request(route: string, status: number, ms: number): void {
    this.#http.inc({ route, status: String(status) });
    this.#seconds.observe({ route }, ms / 1000);
  }

  answered(model: string, { timings, usage, cache, finishReason }: Answered): void {
    this.#answers.inc({ model, finish: finishReason });
    this.#waited.observe({ model }, timings.queueMs / 1000);
    this.#prompt.inc({ model }, usage.promptTokens);
    this.#cached.inc({ model }, usage.cachedTokens);
    this.#generated.inc({ model }, usage.generatedTokens);
    if (usage.generatedTokens > 0) {
      this.#first.observe({ model }, (timings.queueMs + timings.prefillMs) / 1000);
    }
    if (usage.generatedTokens > 1) {
      this.#each.observe({ model }, timings.decodeMs / (usage.generatedTokens - 1) / 1000);
    }
    this.evicted(model, cache);
  }

  /** A text of so many tokens was embedded. */
  embedded(model: string, tokens: number, cache: Gone): void {
    this.#embeddings.inc({ model });
    this.#prompt.inc({ model }, tokens);
    this.evicted(model, cache);
  }

  evicted(model: string, { dropped, demoted, merged }: Gone): void {
    for (const [fate, count] of Object.entries({ dropped, demoted, merged })) {
      if (count > 0) this.#evicted.inc({ model, fate }, count);
    }
  }

  /** An engine crashed, and so many sessions with it. */
  crashed(model: string, sessions: number): void {
    this.#crashes.inc({ model });
    this.#sessionsLost.inc({ model }, sessions);
  }

  reopened(model: string): void {
    this.#reopened.inc({ model });
  }

  failed(model: string, code: string): void {
    this.#answers.inc({ model, finish: code });
  }

  /** All figures in Prometheus' text format. */
  async text(): Promise<string> {
    await Promise.all(this.#beforeReading.map((read) => read()));
    return this.registry.metrics();
  }

  readonly #beforeReading: (() => Promise<void>)[] = [];

  #counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `millrace_${name}`, help, labelNames, registers: [this.registry] });
  }

  #gauge(name: string, help: string, labelNames: string[] = ["model"]): Gauge {
    return new Gauge({ name: `millrace_${name}`, help, labelNames, registers: [this.registry] });
  }

  #histogram(name: string, help: string, buckets: number[], labelNames: string[]): Histogram {
    return new Histogram({ name: `millrace_${name}`, help, buckets, labelNames, registers: [this.registry] });
  }
}
