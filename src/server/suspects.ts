/**
 * Requests that were under way when an engine crashed. One of them may have been the cause, and would crash the engine
 * for everybody again and again: so each is asked alone, and one that has been there too often is answered with an error.
 */
import type { BatchAnswer } from "../batch/journal.js";
import type { BatchRequest } from "../batch/lines.js";
import type { Answerer } from "../batch/run.js";
import { MillraceError } from "../index.js";

/** Crashes that a request may have been under way in. */
const MOST_CRASHES = 3;

/** Of one batch, for as long as it takes, with all times that it is tried again. */
export class Suspects {
  /** By custom_id: crashes that they were under way in. */
  readonly #crashes = new Map<string, number>();
  readonly #underWay = new Set<Promise<unknown>>();
  #alone: Promise<unknown> = Promise.resolve();

  /** `answerer`, with an eye on crashes; `count` says how many there were. */
  watch(answerer: Answerer, count: () => number): Answerer {
    return {
      measure: (request) => answerer.measure(request),
      answer: (request, signal) => {
        const ask = () => this.#ask(request, count, () => answerer.answer(request, signal));
        return this.#crashes.has(request.custom_id) ? this.#askAlone(ask) : this.#askBesideOthers(ask);
      },
    };
  }

  async #ask(
    request: BatchRequest,
    count: () => number,
    answer: () => Promise<BatchAnswer>,
  ): Promise<BatchAnswer> {
    const before = count();
    try {
      return await answer();
    } catch (error) {
      // Who only found the engine gone has nothing to do with it.
      if (count() === before) throw error;
      const crashes = (this.#crashes.get(request.custom_id) ?? 0) + 1;
      this.#crashes.set(request.custom_id, crashes);
      if (crashes < MOST_CRASHES || !(error instanceof MillraceError)) throw error;
      const message = `The engine crashed ${crashes} times while it answered this request.`;
      return { response: null, error: { code: "engine_crashed", message } };
    }
  }

  async #askBesideOthers(ask: () => Promise<BatchAnswer>): Promise<BatchAnswer> {
    await this.#alone;
    return this.#count(ask());
  }

  #askAlone(ask: () => Promise<BatchAnswer>): Promise<BatchAnswer> {
    const answer = this.#alone.then(async () => {
      await Promise.allSettled(this.#underWay);
      return ask();
    });
    this.#alone = answer.catch(() => {});
    return answer;
  }

  #count(answer: Promise<BatchAnswer>): Promise<BatchAnswer> {
    this.#underWay.add(answer);
    const done = () => this.#underWay.delete(answer);
    answer.then(done, done);
    return answer;
  }
}
