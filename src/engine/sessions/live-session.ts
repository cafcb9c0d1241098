/** One session in the worker: a stream in its home, the tier below it, and whether it stands still. */

import type { CacheEvent } from "../../cache/sequence.js";
import { PROBE_TOKENS } from "../../cache/tiers/probe.js";
import type { Recall, RecallParts } from "../../cache/tiers/recall.js";
import { MillraceError } from "../../errors.js";
import type { Tape } from "../../tape/tape.js";
import type { Engine } from "../engine.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";
import type { SessionInfo, SessionReport } from "../protocol.js";
import type { Home } from "./home.js";
import type { UnfinishedAnswer } from "./manifest.js";
import { settingsOf, tierFingerprint, tierFolder } from "./recall.js";
import { Stream } from "./stream.js";
import type { StreamState } from "./stream-state.js";

/** What sessions have to say between calls. Told during steps and calls; must not call back. */
export interface SessionsListener {
  /** A session has work: the engine is to be driven. */
  wake(): void;
  report(session: number, report: SessionReport): void;
  change(session: number, event: CacheEvent): void;
}

/** What all sessions of a model have in common. */
export interface SessionContext {
  readonly engine: Engine;
  readonly tape: Tape;
  /** Which model and tokenizer these are. */
  readonly identity: ModelIdentity;
  /** That sessions may name, in the order of their numbers. */
  readonly adapters: readonly AdapterIdentity[];
  readonly listener: SessionsListener;
}

/** What a session is made of. */
export interface SessionParts {
  readonly id: number;
  readonly home: Home;
  readonly state: StreamState;
  /** Number of the adapter that its tokens run with; absent: none. */
  readonly adapter?: number;
  /** Of its home: see `Home.share`. */
  readonly withheld: Int32Array;
  readonly unfinished: UnfinishedAnswer | null;
}

export class LiveSession {
  readonly home: Home;
  readonly stream: Stream;
  /** That its tokens run with; null: none. */
  readonly adapter: AdapterIdentity | null;
  /** An answer that was under way when it was saved, and that nobody has taken up. */
  unfinished: UnfinishedAnswer | null;
  /** Its changes are told. */
  watched = false;
  readonly #context: SessionContext;
  readonly #withheld: Int32Array;
  #recall: Recall | null = null;
  /** While it stands still. */
  #standing: Promise<unknown> | null = null;
  #leaving: Promise<void> | null = null;

  constructor(context: SessionContext, parts: SessionParts) {
    const { id, home, state, adapter, withheld, unfinished } = parts;
    const { engine, listener } = context;
    this.#context = context;
    this.#withheld = withheld;
    this.home = home;
    this.adapter = adapter === undefined ? null : context.adapters[adapter]!;
    this.unfinished = unfinished;
    this.stream = new Stream({
      id,
      place: home.place,
      state,
      capacity: home.fit.capacity,
      heldBack: home.recall?.auto ? PROBE_TOKENS : 1,
      ...(adapter === undefined ? {} : { adapter }),
      listener: {
        work: (stream) => {
          engine.enlist(stream);
          listener.wake();
        },
        rest: (stream) => engine.withdraw(stream),
        report: (report) => listener.report(id, report),
        change: (event) => {
          if (this.watched) listener.change(id, event);
        },
        ...(home.recall && {
          take: (positions: Int32Array, tokens: Int32Array) => this.#recall?.saw(positions, tokens),
        }),
      },
    });
  }

  /** The tier below its cache; null where it has none, and while the session is being made. */
  get recall(): Recall | null {
    return this.#recall;
  }

  get isOpen(): boolean {
    return this.#leaving === null;
  }

  info(): SessionInfo {
    const { home, stream, adapter, unfinished } = this;
    return {
      cache: home.cache,
      recall: home.recall,
      adapter: adapter?.name ?? null,
      memoryBytes: home.fit.memoryBytes,
      pageBytes: home.place.pool.pageBytes,
      capacity: home.fit.capacity,
      report: stream.report(),
      unfinished: unfinished !== null,
    };
  }

  /** Gives the session the tier that `make` makes, where its policy is to have one. */
  async demote(make: (parts: RecallParts) => Promise<Recall>): Promise<void> {
    const { home, stream, adapter } = this;
    if (!home.recall) return;
    const { tape, identity } = this.#context;
    const { pool, layout } = home.place;
    this.#recall = await make({
      cache: stream.cache,
      pool,
      tape,
      fingerprint: tierFingerprint(identity, adapter, layout),
      folder: tierFolder(home.recall.dir),
      settings: settingsOf(tape, layout, home.recall),
    });
  }

  /** Resolves when it does not stand still. */
  async moves(): Promise<void> {
    while (this.#standing) await this.#standing;
  }

  /** Lets the session stand still for as long as `act` takes; others go on, and calls to this one wait. Throws CLOSED. */
  async standStill<T>(act: () => Promise<T>): Promise<T> {
    await this.moves();
    const doing = this.#context.engine.betweenSteps(() => {
      if (!this.isOpen) throw closed();
      this.stream.pause();
      return act();
    });
    this.#standing = doing.catch(() => {});
    try {
      return await doing;
    } finally {
      this.#standing = null;
      if (this.isOpen) this.stream.resume();
    }
  }

  /** Closes it, with `error` for what is under way; resolves when nothing of it is left. Only between steps. Idempotent. */
  leave(error: MillraceError): Promise<void> {
    this.#leaving ??= this.#leave(error);
    return this.#leaving;
  }

  async #leave(error: MillraceError): Promise<void> {
    const { home, stream } = this;
    this.#context.engine.withdraw(stream);
    stream.close(error);
    const tier = this.#recall?.dispose().catch(() => {});
    home.leave(this.#withheld);
    await tier;
  }
}

export const closed = (): MillraceError => new MillraceError("CLOSED", "The session was closed.");
