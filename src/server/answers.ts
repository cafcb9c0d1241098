/** The answers to one request: run, merged where there are several, counted when they end. */
import type { FinishReason, Generation, GenerationResult, Piece } from "../index.js";
import type { ServerContext } from "./context.js";
import { toApiError } from "./errors.js";
import type { ServedModel } from "./models.js";
import { type Gone, goneSince, NOTHING_GONE, UsageCount } from "./usage.js";
import type { Work } from "./work.js";

/** "stop" or "length", as clients know them. */
export function finishOf(reason: FinishReason): "stop" | "length" {
  return reason === "stop" || reason === "stop-string" ? "stop" : "length";
}

/** What came of one of several answers. */
export type AnswerEvent =
  | { readonly kind: "piece"; readonly index: number; readonly piece: Piece }
  | { readonly kind: "end"; readonly index: number; readonly result: GenerationResult };

/** The answers to one request. Every one is counted when it has ended, however it did. */
export class Answers {
  readonly #context: ServerContext;
  readonly #served: ServedModel;
  readonly #work: Work;
  readonly #client: string;
  readonly #generations: readonly Generation[];
  readonly #perPrompt: number;
  readonly #before: Gone;
  readonly usage: UsageCount;

  /**
   * @param generations Nothing of them runs yet.
   * @param perPrompt Answers to each prompt, which stand next to each other.
   * @param before What the session that is answered in had lost before; null: there is none.
   */
  constructor(
    context: ServerContext,
    served: ServedModel,
    { work, client }: { readonly work: Work; readonly client: string },
    generations: readonly Generation[],
    perPrompt: number,
    before: Gone | null = null,
  ) {
    this.#context = context;
    this.#served = served;
    this.#work = work;
    this.#client = client;
    this.#generations = generations;
    this.#perPrompt = perPrompt;
    this.#before = before ?? NOTHING_GONE;
    this.usage = new UsageCount(before === null && served.info.prefixCache);
    work.notes.model = served.name;
  }

  /** All answers, whole. Rejects with what one of them failed for; the others are then cancelled. */
  async whole(): Promise<GenerationResult[]> {
    try {
      const results = await Promise.all(this.#generations.map((generation) => generation.result));
      for (const [index, result] of results.entries()) this.#count(result, index);
      return results;
    } catch (error) {
      throw await this.#fail(error);
    }
  }

  /** Pieces and ends as they come, one at a time: who does not take one holds back the rest. Throws as `whole`. */
  async *events(): AsyncGenerator<AnswerEvent, void> {
    const { pump, take } = rendezvous<AnswerEvent | { readonly kind: "failed"; readonly error: unknown }>();
    this.#generations.forEach(async (generation, index) => {
      try {
        let then: number | null = null;
        for await (const piece of generation) {
          const now = performance.now();
          if (then !== null) this.#context.metrics.gap(this.#served.name, now - then);
          await pump({ kind: "piece", index, piece });
          // How long the reader took is not the engine's time.
          then = performance.now();
        }
        await pump({ kind: "end", index, result: await generation.result });
      } catch (error) {
        await pump({ kind: "failed", error });
      }
    });
    try {
      let open = this.#generations.length;
      while (open > 0) {
        const event = await take();
        if (event.kind === "failed") throw event.error;
        if (event.kind === "end") {
          open--;
          this.#count(event.result, event.index);
        }
        yield event;
      }
    } catch (error) {
      throw await this.#fail(error);
    } finally {
      await this.#cancel();
    }
  }

  #count(result: GenerationResult, index: number): void {
    const { metrics, tokenRate } = this.#context;
    const before = this.usage.total;
    const counted = { ...result, cache: goneSince(this.#before, result.cache) };
    this.usage.add(counted, index % this.#perPrompt === 0);
    tokenRate?.use(this.#client, this.usage.total - before);
    metrics.answered(this.#served.name, counted);
    const { notes } = this.#work;
    const { prompt_tokens, completion_tokens } = this.usage.toJSON();
    Object.assign(notes, { promptTokens: prompt_tokens, generatedTokens: completion_tokens });
    notes.finish = result.finishReason;
  }

  async #fail(error: unknown): Promise<unknown> {
    await this.#cancel();
    const failure = this.#work.reason ?? toApiError(error);
    this.#context.metrics.failed(this.#served.name, failure.code);
    return failure;
  }

  async #cancel(): Promise<void> {
    await Promise.all(this.#generations.map((generation) => generation.return()));
  }
}

/** A place where one side hands over values one at a time, and waits until each is taken. */
function rendezvous<T>(): { pump(value: T): Promise<void>; take(): Promise<T> } {
  const offers: { readonly value: T; readonly taken: () => void }[] = [];
  let taker: ((value: T) => void) | null = null;
  return {
    pump: (value) =>
      new Promise((taken) => {
        if (taker === null) {
          offers.push({ value, taken });
          return;
        }
        taker(value);
        taker = null;
        taken();
      }),
    take: () =>
      new Promise((resolve) => {
        const offer = offers.shift();
        if (offer === undefined) {
          taker = resolve;
          return;
        }
        offer.taken();
        resolve(offer.value);
      }),
  };
}
