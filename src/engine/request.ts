/** A request on its way through the engine, seen by the scheduler as waiting or running. */
import { PrefixLease } from "../cache/prefix/lease.js";
import type { Found, PrefixTree } from "../cache/prefix.js";
import { type CacheReport, SequenceCache } from "../cache/sequence.js";
import type { Decoder, Emission, FinishReason } from "../decoding/contract.js";
import type { MillraceError } from "../errors.js";
import type { Outputs, Phase } from "../scheduler/contract.js";
import { namespaceOf } from "./prefix-file.js";
import { PutAway } from "./put-away.js";
import { tooLate } from "./standing.js";
import type { Place, Task } from "./task.js";

export interface RequestEnd {
  readonly finishReason: FinishReason;
  readonly promptTokens: number;
  /** Of these, tokens that another request had run before and that were not run again. */
  readonly cachedTokens: number;
  /** Tokens sampled, an end token included. */
  readonly generatedTokens: number;
  /** Milliseconds: before admission; until the first logits; from then to the last. */
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
  readonly cache: CacheReport;
}

/** Told during `Engine.step`, or `cancel`; must not call the engine. Exactly one of `end` and `fail` is called, last. */
export interface RequestListener {
  emit(emission: Emission): void;
  end(end: RequestEnd): void;
  fail(error: MillraceError): void;
}

export interface EngineRequest {
  readonly id: number;
  /** Tokens to run, at least one. */
  readonly prompt: Int32Array;
  readonly decoder: Decoder;
  /** Most tokens, prompt included, that will go into the cache; Infinity for a stream without end. */
  readonly maxCached: number;
  /** Emissions that may be given before `Engine.grant` allows more; the request pauses at 0. */
  readonly credit: number;
  /** Number of the adapter that it runs with; absent: none. */
  readonly adapter?: number;
  /** It shares prefixes with requests of the same scope alone; absent: with others that name none. */
  readonly prefixScope?: string;
  /** How it stands among others; see `Job` in scheduler/contract.ts. */
  readonly client?: string;
  readonly priority?: number;
  /** On the engine's clock. */
  readonly deadline?: number;
  readonly listener: RequestListener;
}

const NOTHING_FOUND: Found = { tokens: 0, referenced: 0, promised: false };
const NO_CACHE: CacheReport = { seen: 0, kept: 0, merged: 0, demoted: 0, dropped: 0, bytes: 0, groups: [] };

export class Request implements Task {
  readonly id: number;
  readonly place: Place;
  readonly outputs: Outputs;
  readonly adapter?: number;
  readonly client?: string;
  readonly priority?: number;
  readonly deadline?: number;
  arrivedAt = 0;
  readonly promptTokens: number;
  readonly #decoder: Decoder;
  readonly #listener: RequestListener;
  readonly #maxCached: number;
  /** Most pages that it will ever hold, its own and shared ones. */
  readonly #mostPages: number;
  /** Null where it shares nothing. */
  readonly #tree: PrefixTree | null;
  readonly #namespace: string;

  phase: Phase = "prefill";
  cache: SequenceCache | null = null;
  credit: number;
  done = false;
  cancelled = false;

  /** Tokens that are to run: those of `#tokens` from `#cursor` on. */
  #tokens: Int32Array;
  #cursor = 0;
  #generated = 0;
  #lease: PrefixLease | null = null;
  /** Its cache while more urgent requests have its pages. */
  #away: PutAway | null = null;
  #isStuck = false;
  #cachedTokens = 0;
  /** What its prompt would find in the tree, and when that was looked up. */
  #found: Found = NOTHING_FOUND;
  #foundAt = -1;
  readonly #queuedAt = performance.now();
  #admittedAt = Number.NaN;
  #firstAt = Number.NaN;
  #lastAt = Number.NaN;

  /** `mostPages`: the most that it will ever hold. */
  constructor(request: EngineRequest, place: Place, mostPages: number) {
    this.id = request.id;
    this.place = place;
    this.#mostPages = mostPages;
    const { reads, outputs } = request.decoder;
    // What is scored must run to the last token, and what is embedded is nobody's beginning.
    this.#tree = outputs === "all" || reads === "states" ? null : (place.prefix ?? null);
    this.#namespace = namespaceOf(request.adapter, request.prefixScope);
    this.outputs = reads === "states" ? "none" : outputs;
    this.credit = request.credit;
    if (request.adapter !== undefined) this.adapter = request.adapter;
    if (request.client !== undefined) this.client = request.client;
    if (request.priority !== undefined) this.priority = request.priority;
    if (request.deadline !== undefined) this.deadline = request.deadline;
    this.#decoder = request.decoder;
    this.#listener = request.listener;
    this.#maxCached = request.maxCached;
    this.#tokens = request.prompt;
    this.promptTokens = request.prompt.length;
  }

  /** Those that it shares with requests under way are not counted: it takes nothing from anybody with them. */
  get pages(): number {
    if (this.#away) return this.#mostPages;
    const shared = this.cache ? (this.#lease?.pages ?? 0) : this.#find().referenced;
    return this.#mostPages - shared;
  }

  /** 0 while its reader is behind, and while another request runs what this one would run next. */
  get pending(): number {
    if (this.credit <= 0) return 0;
    if (this.cache || this.#away) return this.#isHeldUp ? 0 : this.#tokens.length - this.#cursor;
    const { tokens, promised } = this.#find();
    return promised ? 0 : this.#tokens.length - tokens;
  }

  get chunk(): number {
    return (this.cache ?? this.#away)?.maxIncoming() ?? firstChunk(this.place);
  }

  get cached(): number {
    return (this.cache ?? this.#away)?.held ?? this.#find().tokens;
  }

  admit(): void {
    const { pool, layout } = this.place;
    if (this.#away) {
      this.cache = this.#away.bringBack(pool, layout);
      this.#away = null;
      return;
    }
    this.#admittedAt = performance.now();
    this.cache = new SequenceCache(pool, layout);
    if (this.#tree) this.#lease = new PrefixLease(this.#tree, this.#namespace, this.#tokens, this.cache);
    this.#cursor = this.#lease?.cached ?? 0;
  }

  get movable(): boolean {
    return this.cache !== null && !this.#isStuck && !this.#isHeldUp;
  }

  putAway(): void {
    try {
      this.#away = new PutAway(this.cache!);
    } catch (error) {
      this.#isStuck = true;
      throw error;
    }
    this.#leaveTree();
    this.cache!.dispose();
    this.cache = null;
  }

  look(): void {
    if (!this.#lease || !this.#isHeldUp) return;
    this.#lease.follow();
    this.#cursor = this.#lease.cached;
  }

  get coming(): Promise<void> | null {
    return this.#lease?.coming ?? null;
  }

  take(count: number): Int32Array {
    this.#cursor += count;
    const tokens = this.#tokens.subarray(this.#cursor - count, this.#cursor);
    this.#lease?.ran(tokens);
    return tokens;
  }

  states(tokens: number): number {
    const { reads, outputs } = this.#decoder;
    if (reads !== "states") return 0;
    return outputs === "all" ? tokens : Number(tokens === this.pending);
  }

  accept(row: Float32Array, now: number): void {
    const { next, emission, finish } = this.#decoder.accept(row);
    if (this.#generated++ === 0) this.#firstAt = now;
    this.#lastAt = now;
    if (emission) {
      this.credit -= 1;
      this.#listener.emit(emission);
    }
    if (finish) this.#end(finish);
    else if (next !== null && this.cache!.length < this.#maxCached) this.#follow(next);
    else if (next !== null) this.#endShort("cache-full");
  }

  settle(): void {
    this.#lease?.settle();
  }

  expire(): void {
    if (!Number.isNaN(this.#admittedAt)) this.#endShort("deadline");
    else this.fail(tooLate("request", this.#queuedAt));
  }

  cancel(): void {
    this.#end("aborted");
  }

  fail(error: MillraceError): void {
    this.#lease?.drop();
    this.#release();
    this.#listener.fail(error);
  }

  /** Others run what it would run next, or it comes from disk. */
  get #isHeldUp(): boolean {
    return this.#lease !== null && (this.#lease.following || this.#lease.coming !== null);
  }

  /** `token` runs next. */
  #follow(token: number): void {
    if (this.phase === "prefill") {
      this.phase = "decode";
      this.#tokens = new Int32Array(1);
    }
    this.#tokens[0] = token;
    this.#cursor = 0;
  }

  /** Ends before the decoder has: what it held back is said first. */
  #endShort(finishReason: FinishReason): void {
    const rest = this.#decoder.flush();
    if (rest) this.#listener.emit(rest);
    this.#end(finishReason);
  }

  /** Frees its pages and says what it did. */
  #end(finishReason: FinishReason): void {
    const now = performance.now();
    const admittedAt = Number.isNaN(this.#admittedAt) ? now : this.#admittedAt;
    const firstAt = Number.isNaN(this.#firstAt) ? now : this.#firstAt;
    const lastAt = Number.isNaN(this.#lastAt) ? firstAt : this.#lastAt;
    const cache = this.cache?.report() ?? this.#away?.report ?? NO_CACHE;
    this.#leaveTree();
    this.#release();
    this.#listener.end({
      finishReason,
      promptTokens: this.promptTokens,
      cachedTokens: this.#cachedTokens,
      generatedTokens: this.#generated,
      queueMs: admittedAt - this.#queuedAt,
      prefillMs: firstAt - admittedAt,
      decodeMs: lastAt - firstAt,
      cache,
    });
  }

  /** What it ran stays for others. */
  #leaveTree(): void {
    this.#cachedTokens += this.#lease?.cached ?? 0;
    this.#lease?.end();
    this.#lease = null;
  }

  #release(): void {
    this.done = true;
    this.#lease = null;
    this.cache?.dispose();
    this.cache = null;
    this.#away?.discard();
    this.#away = null;
  }

  #find(): Found {
    if (this.#tree && this.#foundAt !== this.#tree.version) {
      this.#found = this.#tree.find(this.#namespace, this.#tokens);
      this.#foundAt = this.#tree.version;
    }
    return this.#found;
  }
}

/** Most tokens that a fresh cache takes at once. */
function firstChunk({ layout }: Place): number {
  return Math.min(...layout.groups.map(({ policy }) => policy.maxIncoming?.(0) ?? Number.POSITIVE_INFINITY));
}
