/**
 * The engine: requests in, tokens out. It owns the queue and the caches of what runs, asks the scheduler what to run,
 * has the program run it, and gives the logits to each request's decoder. It knows nothing of threads and messages.
 */
import type { Program, Span } from "../backends/contract.js";
import { type CacheLayout, pagesFor } from "../cache/layout.js";
import type { KvPool } from "../cache/pool.js";
import { Rotations } from "../cache/rotations.js";
import { SequenceCache } from "../cache/sequence.js";
import type { Emission, FinishReason } from "../decoding/contract.js";
import { MillraceError } from "../errors.js";
import type { Limits, Scheduler } from "../scheduler/contract.js";
import type { EngineUsage } from "./protocol.js";
import { type EngineRequest, Request } from "./request.js";

export interface EngineParts {
  /** Compiled for `limits.maxTokens`, `limits.maxOutputs` and `layout`. */
  readonly program: Program;
  readonly pool: KvPool;
  readonly layout: CacheLayout;
  readonly scheduler: Scheduler;
  readonly limits: Limits;
  readonly vocabularySize: number;
}

export class Engine {
  readonly #parts: EngineParts;
  readonly #waiting: Request[] = [];
  readonly #running: Request[] = [];
  readonly #byId = new Map<number, Request>();
  /** Pages that running requests may still need, held or not. */
  #reserved = 0;
  /** A step is in the backend's hands: what takes part in it cannot be freed. */
  #underWay = false;

  readonly #rotations = new Rotations();
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #outputs: Int32Array;
  readonly #slots: readonly Int32Array[];

  constructor(parts: EngineParts) {
    this.#parts = parts;
    const { limits, layout } = parts;
    this.#tokens = new Int32Array(limits.maxTokens);
    this.#positions = new Int32Array(limits.maxTokens);
    this.#outputs = new Int32Array(limits.maxOutputs);
    this.#slots = layout.groups.map(() => new Int32Array(limits.maxTokens));
  }

  usage(): EngineUsage {
    return { ...this.#parts.pool.usage(), waiting: this.#waiting.length, running: this.#running.length };
  }

  /**
   * Puts a request in the line; its listener hears the rest.
   * Throws INVALID_ARGUMENT for an empty prompt, INVALID_TOKEN for an id outside the vocabulary, PROMPT_TOO_LONG
   * where the whole cache could not hold `maxCached` tokens.
   */
  submit(request: EngineRequest): void {
    const { layout, pool } = this.#parts;
    this.#checkTokens(request.prompt);
    const pages = pagesFor(layout, request.maxCached);
    if (pages > pool.numPages) {
      throw new MillraceError(
        "PROMPT_TOO_LONG",
        `The request needs a cache of ${request.maxCached} tokens (${pages} pages); the cache has ${pool.numPages} ` +
          "pages. Shorten the prompt, ask for fewer tokens, or open the model with more memory.",
        { tokens: request.maxCached, needed: pages, pages: pool.numPages },
      );
    }
    const firstChunk = Math.min(...layout.groups.map(({ policy }) => policy.maxIncoming?.(0) ?? Infinity));
    const queued = new Request(request, pages, firstChunk);
    this.#waiting.push(queued);
    this.#byId.set(queued.id, queued);
  }

  /** Lets request `id` give `emissions` more before it pauses. Unknown ids are those that have ended: no error. */
  grant(id: number, emissions: number): void {
    const request = this.#byId.get(id);
    if (request) request.credit += emissions;
  }

  /** Ends request `id` with "aborted" and frees its pages: now, or when the step under way is through. */
  cancel(id: number): void {
    const request = this.#byId.get(id);
    if (!request) return;
    if (this.#underWay) request.cancelled = true;
    else this.#end(request, "aborted");
  }

  /** Fails every request with `error` and frees its pages. Only between steps. */
  failAll(error: MillraceError): void {
    for (const request of [...this.#byId.values()]) this.#fail(request, error);
  }

  /**
   * One step; false where nothing could run: there is no request, or each one waits for its reader.
   * A request that fails takes nobody with it; where the backend itself fails, all that ran in the step do.
   */
  async step(): Promise<boolean> {
    const batch = this.#schedule();
    if (batch.length === 0) return false;
    await this.#run(batch);
    this.#commit(batch);
    return true;
  }

  /** Admits whom the plan admits, and finds the requests that its work is for. */
  #schedule(): Share[] {
    const { scheduler, limits, pool, layout } = this.#parts;
    const plan = scheduler.plan({
      waiting: this.#waiting,
      running: this.#running,
      limits,
      freePages: pool.numPages - this.#reserved,
    });
    for (const id of plan.admit) {
      const request = this.#byId.get(id)!;
      remove(this.#waiting, request);
      this.#running.push(request);
      this.#reserved += request.pages;
      request.admit(new SequenceCache(pool, layout));
    }
    return plan.work.map(({ id, tokens, outputs }) => ({ request: this.#byId.get(id)!, tokens, outputs }));
  }

  /** Lays the shares one after another in one ragged batch, finds slots for their tokens, and runs it. */
  async #run(batch: readonly Share[]): Promise<void> {
    const { program, pool } = this.#parts;
    const spans: Span[] = [];
    let numTokens = 0;
    let numOutputs = 0;
    this.#rotations.clear();
    for (const share of batch) {
      const { request, tokens: count } = share;
      const start = numTokens;
      const end = start + count;
      try {
        const cache = request.cache!;
        for (let t = start, position = cache.nextPosition; t < end; t++) this.#positions[t] = position++;
        const prepared = cache.prepare(this.#positions.subarray(start, end), this.#rotations);
        this.#slots.forEach((slots, group) => {
          slots.set(prepared.slots[group]!, start);
        });
        spans.push({ start, count, views: prepared.views });
      } catch (error) {
        this.#fail(request, MillraceError.from(error));
        share.outputs = 0;
        continue;
      }
      this.#tokens.set(request.take(count), start);
      for (let t = end - share.outputs; t < end; t++) this.#outputs[numOutputs++] = t;
      numTokens = end;
    }
    if (spans.length === 0) return;
    this.#underWay = true;
    try {
      await program.run({
        tokens: this.#tokens.subarray(0, numTokens),
        positions: this.#positions.subarray(0, numTokens),
        outputs: this.#outputs.subarray(0, numOutputs),
        spans,
        slots: this.#slots.map((slots) => slots.subarray(0, numTokens)),
        rotations: this.#rotations.values(),
        arena: pool.arena,
      });
    } catch (error) {
      for (const { request } of batch) this.#fail(request, MillraceError.from(error));
    } finally {
      this.#underWay = false;
    }
  }

  /** Gives every request its rows of logits, in order. */
  #commit(batch: readonly Share[]): void {
    const { program, vocabularySize } = this.#parts;
    const logits = program.logits();
    const now = performance.now();
    let row = 0;
    for (const { request, outputs } of batch) {
      const end = row + outputs;
      if (request.cancelled) this.#end(request, "aborted");
      for (; row < end && this.#byId.has(request.id); row++) {
        this.#accept(request, logits.subarray(row * vocabularySize, (row + 1) * vocabularySize), now);
      }
      row = end;
    }
  }

  #accept(request: Request, logits: Float32Array, now: number): void {
    const { decoder, listener } = request;
    try {
      const { next, emission, finish } = decoder.accept(logits);
      request.sampled(now);
      if (emission) this.#emit(request, emission);
      if (finish) this.#end(request, finish);
      else if (next !== null && request.cache!.length < request.maxCached) request.follow(next);
      else if (next !== null) {
        const rest = decoder.flush();
        if (rest) listener.emit(rest);
        this.#end(request, "cache-full");
      }
    } catch (error) {
      this.#fail(request, MillraceError.from(error));
    }
  }

  #emit(request: Request, emission: Emission): void {
    request.credit -= 1;
    request.listener.emit(emission);
  }

  #end(request: Request, reason: FinishReason): void {
    if (!this.#leave(request)) return;
    request.listener.end(request.finish(reason));
  }

  #fail(request: Request, error: MillraceError): void {
    if (!this.#leave(request)) return;
    request.release();
    request.listener.fail(error);
  }

  /** Takes the request out of the queue; false where it had left already. */
  #leave(request: Request): boolean {
    if (!this.#byId.delete(request.id)) return false;
    remove(this.#waiting, request);
    if (remove(this.#running, request)) this.#reserved -= request.pages;
    return true;
  }

  #checkTokens(prompt: Int32Array): void {
    const { vocabularySize } = this.#parts;
    if (prompt.length === 0) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        "The prompt has no tokens; give at least one (the model's tokenizer adds none of its own here).",
      );
    }
    const at = prompt.findIndex((id) => !(id >= 0 && id < vocabularySize));
    if (at < 0) return;
    throw new MillraceError(
      "INVALID_TOKEN",
      `Token ${at} of the prompt is ${prompt[at]}; this model's ids run from 0 to ${vocabularySize - 1}.`,
      { at, got: prompt[at]!, vocabularySize },
    );
  }
}

/** A request's part in a step. */
interface Share {
  readonly request: Request;
  readonly tokens: number;
  /** Set to 0 where the request failed before the step ran. */
  outputs: number;
}

function remove<T>(list: T[], item: T): boolean {
  const at = list.indexOf(item);
  if (at >= 0) list.splice(at, 1);
  return at >= 0;
}
