/** The memory of sessions: each has pages of its own, which its forks share, out of what the model's budget leaves. */
import type { Backend, Program, ProgramLimits } from "../../backends/contract.js";
import { planLayout } from "../../cache/layout.js";
import { resolvePolicy } from "../../cache/policies/resolve.js";
import type { ModelHeads } from "../../cache/policies/split.js";
import { KvPool } from "../../cache/pool.js";
import { probeLimits } from "../../cache/tiers/probe.js";
import { MillraceError } from "../../errors.js";
import type { Limits } from "../../scheduler/contract.js";
import type { Tape } from "../../tape/tape.js";
import { formatBytes } from "../bytes.js";
import type { CacheSpec } from "../policies.js";
import type { Place } from "../task.js";
import { fitSession, type SessionFit } from "./fit.js";
import { Questions, type RecallSpec, recallShare } from "./recall.js";

export interface HomesParts {
  readonly backend: Backend;
  readonly tape: Tape;
  readonly limits: Limits;
  /** Which heads retrieve, where that was ever found out. */
  readonly heads: ModelHeads;
  /** Tokens that the model is set up for. */
  readonly context: number;
  /** Bytes that the model's budget leaves; null where it has none. */
  readonly spareBytes: number | null;
  /** For programs that ask a model what a question looks for. */
  readonly questions: {
    compile(limits: ProgramLimits): Promise<Program>;
    scratchBytes(limits: ProgramLimits): number;
  };
}

/** Makes homes, and sees that together they stay within what the model's budget leaves. */
export class Homes {
  readonly #parts: HomesParts;
  /** Bytes of all homes, and of what asks models in them. */
  #bytes = 0;

  constructor(parts: HomesParts) {
    this.#parts = parts;
  }

  /**
   * An empty home for sequences that keep `cache`; without `memoryBytes` it gets what one of them needs. Throws
   * INVALID_ARGUMENT for a policy that does not fit the model, OUT_OF_BUDGET where the memory does not hold what the policy
   * needs, or the model's budget or the machine not the memory.
   */
  async make(cache: CacheSpec, memoryBytes: number | null, recall: RecallSpec | null): Promise<Home> {
    const { tape, limits, heads, context, backend, questions } = this.#parts;
    const layout = planLayout({
      kv: tape.kv,
      policy: resolvePolicy(cache.policy, heads),
      codec: cache.codec,
      step: limits.maxTokens,
      ...(recall && { pageTokens: recall.block }),
    });
    const share = recall ? recallShare(tape, layout, recall) : undefined;
    const fit = fitSession(layout, memoryBytes, context, share);
    const asks = recall !== null && recall.by !== "tokens";
    const needs = fit.memoryBytes + (asks ? questions.scratchBytes(probeLimits(tape, layout)) : 0);
    this.#reserve(needs);
    let pool: KvPool | null = null;
    try {
      pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: fit.poolBytes });
      const asker = asks ? await Questions.make(tape, layout, pool, questions.compile) : null;
      return new Home({ pool, layout }, fit, cache, recall, asker, () => {
        this.#bytes -= needs;
      });
    } catch (error) {
      pool?.dispose();
      this.#bytes -= needs;
      throw error;
    }
  }

  #reserve(needs: number): void {
    const { spareBytes } = this.#parts;
    if (spareBytes !== null && this.#bytes + needs > spareBytes) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `The session needs ${formatBytes(needs)} and the model's budget leaves ${formatBytes(spareBytes - this.#bytes)}. ` +
          "Open the model with more memory, or with fewer sequences or a shorter context.",
        { needs, has: spareBytes - this.#bytes },
      );
    }
    this.#bytes += needs;
  }
}

/** Pages that a session and its forks share, and what they may hold of them. Freed when the last has left. */
export class Home {
  readonly place: Place;
  readonly fit: SessionFit;
  readonly cache: CacheSpec;
  readonly recall: RecallSpec | null;
  /** Where keys are looked at: what asks a model for queries. */
  readonly questions: Questions | null;
  readonly #onFree: () => void;
  #members = 0;
  /** Pages that stand for the tables of forks. */
  #withheld = 0;

  constructor(
    place: Place,
    fit: SessionFit,
    cache: CacheSpec,
    recall: RecallSpec | null,
    questions: Questions | null,
    onFree: () => void,
  ) {
    this.place = place;
    this.fit = fit;
    this.cache = cache;
    this.recall = recall;
    this.questions = questions;
    this.#onFree = onFree;
  }

  /** Takes in its first sequence, which `make` makes; where that throws, the home is free again. `leave` wants `withheld` back. */
  settle<T>(make: (withheld: Int32Array) => T): T {
    return this.#enter(new Int32Array(), make);
  }

  /**
   * Likewise a fork. Its tables lie outside the pool: pages that stand for them are withheld, so that all stay within the
   * budget. Throws OUT_OF_BUDGET where all could not fill their caches.
   */
  share<T>(make: (withheld: Int32Array) => T): T {
    const { pool } = this.place;
    const tables = Math.ceil(this.fit.tableBytes / pool.pageBytes);
    const sequences = this.#members + 1;
    const needed = sequences * (this.fit.pages ?? 0) + this.#withheld + tables;
    if (needed > pool.numPages) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `A fork shares the session's memory, and ${sequences} sequences may come to hold ${needed} pages of ` +
          `${formatBytes(pool.pageBytes)}; there are ${pool.numPages}. Open the session with more memory.`,
        { needed, pages: pool.numPages, pageBytes: pool.pageBytes },
      );
    }
    const withheld = new Int32Array(tables);
    pool.take(withheld);
    return this.#enter(withheld, make);
  }

  /** A sequence has gone, its own pages given back. */
  leave(withheld: Int32Array): void {
    this.place.pool.release(withheld);
    this.#withheld -= withheld.length;
    this.#members--;
    if (this.#members > 0) return;
    this.questions?.dispose();
    this.place.pool.dispose();
    this.#onFree();
  }

  #enter<T>(withheld: Int32Array, make: (withheld: Int32Array) => T): T {
    this.#members++;
    this.#withheld += withheld.length;
    try {
      return make(withheld);
    } catch (error) {
      this.leave(withheld);
      throw error;
    }
  }
}
