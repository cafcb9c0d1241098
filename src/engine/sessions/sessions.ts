/** The sessions of a loaded model, in the worker: how they come to be, are kept in files, looked at, and end. */
import { dirname, join } from "node:path";
import type { CacheLayout } from "../../cache/layout.js";
import { SequenceCache } from "../../cache/sequence.js";
import { mapStream, type StreamMap } from "../../cache/stream-map.js";
import { Recall, type RecallParts } from "../../cache/tiers/recall.js";
import { MillraceError } from "../../errors.js";
import type { CacheSpec } from "../policies.js";
import type { SessionInfo, SessionInspection, SessionParameters } from "../protocol.js";
import { openSessionFile } from "./file.js";
import { defaultCache } from "./fit.js";
import { Homes, type HomesParts } from "./home.js";
import {
  closed,
  LiveSession,
  type SessionContext,
  type SessionParts,
  type SessionsListener,
} from "./live-session.js";
import { readManifest } from "./manifest.js";
import { recallShare } from "./recall.js";
import { checkIdentity, readState, savedAdapter, saveSession } from "./saving.js";
import { StreamState } from "./stream-state.js";

export interface SessionsParts extends HomesParts, Omit<SessionContext, "listener"> {
  /** The model's own cache, for what a session's caller leaves open. */
  readonly cache: CacheSpec;
}

export class Sessions {
  readonly #parts: SessionsParts;
  readonly #context: SessionContext;
  readonly #homes: Homes;
  readonly #sessions = new Map<number, Promise<LiveSession>>();
  readonly #making = new Set<Promise<LiveSession>>();
  /** Those that are there, until nothing is left of them. */
  readonly #live = new Set<LiveSession>();

  constructor(parts: SessionsParts, listener: SessionsListener) {
    const { engine, tape, identity, adapters } = parts;
    this.#parts = parts;
    this.#context = { engine, tape, identity, adapters, listener };
    this.#homes = new Homes(parts);
  }

  /** Opens session `id`. Throws as `Homes.make`, and what a disk tier throws that cannot be made. */
  open(id: number, { memoryBytes, cache, recall, adapter }: SessionParameters): Promise<SessionInfo> {
    return this.#enter(id, async () => {
      const { tape, limits, context, adapters } = this.#parts;
      const blocks = recall && {
        pageTokens: recall.block,
        share: (layout: CacheLayout) => recallShare(tape, layout, recall),
      };
      const codec = cache.codec ?? this.#parts.cache.codec;
      const spec =
        cache.policy && cache.policy.policy !== "auto"
          ? { policy: cache.policy, codec }
          : defaultCache(tape.kv, codec, limits.maxTokens, memoryBytes, context, blocks);
      const home = await this.#homes.make(spec, memoryBytes, recall);
      const { pool, layout } = home.place;
      const number = adapters.findIndex(({ name }) => name === adapter);
      const session = home.settle((withheld) => {
        const state = new StreamState(new SequenceCache(pool, layout));
        const named = number < 0 ? {} : { adapter: number };
        return this.#make({ id, home, state, ...named, withheld, unfinished: null });
      });
      return this.#demote(session, (parts) => Recall.create(parts));
    });
  }

  /** A session `id` that goes on from where another stands. Throws OUT_OF_BUDGET where both cannot fill their caches. */
  fork(id: number, from: number): Promise<SessionInfo> {
    return this.#enter(id, async () => {
      const source = await this.find(from);
      const { home, stream, recall } = source;
      const adapter = stream.adapter === undefined ? {} : { adapter: stream.adapter };
      const fork = () =>
        home.share((withheld) =>
          this.#make({ id, home, state: stream.fork(), ...adapter, withheld, unfinished: null }),
        );
      if (!recall) return this.#parts.engine.betweenSteps(fork);
      return source.standStill(() => this.#demote(fork(), ({ cache, folder }) => recall.fork(cache, folder)));
    });
  }

  /**
   * A session `id` that goes on from a file exactly as the saved one. Throws FILE_NOT_FOUND, BAD_FORMAT for a damaged file,
   * UNSUPPORTED_FORMAT for one of another version, WRONG_MODEL for one of another model or an adapter that is not there,
   * and what `open` throws.
   */
  restore(id: number, path: string, memoryBytes: number | null): Promise<SessionInfo> {
    const { identity, adapters, engine } = this.#parts;
    return this.#enter(id, async () => {
      const file = await openSessionFile(path);
      try {
        const manifest = readManifest(path, file.manifest);
        checkIdentity(path, manifest.identity, identity);
        const adapter = savedAdapter(path, manifest.adapter, adapters);
        const { cache, recall, unfinished } = manifest;
        const home = await this.#homes.make(cache, memoryBytes ?? manifest.memoryBytes, recall?.spec ?? null);
        const checkTokens = (tokens: Int32Array) => engine.checkTokens(tokens);
        const session = home.settle((withheld) => {
          const state = readState(path, file, manifest, home.place, checkTokens);
          return this.#make({ id, home, state, ...adapter, withheld, unfinished });
        });
        return await this.#demote(session, (parts) =>
          recall
            ? Recall.restore(parts, join(dirname(path), recall.folder), recall.state)
            : Recall.create(parts),
        );
      } finally {
        await file.close();
      }
    });
  }

  /**
   * Writes the session to one file, in place of what was there, or fails and leaves that. It stands still in the meantime;
   * others go on. Resolves with the file's bytes. Throws WRITE_FAILED.
   */
  async save(id: number, path: string): Promise<number> {
    const session = await this.find(id);
    const { identity } = this.#parts;
    return session.standStill(() =>
      saveSession(path, session, identity, () => {
        if (!session.isOpen) throw closed();
      }),
    );
  }

  /** See `Stream.rewind`. */
  async rewind(id: number, to: number): Promise<"exact" | "approximate"> {
    const session = await this.find(id);
    return this.#parts.engine.betweenSteps(() => {
      const left = session.stream.rewind(to);
      session.unfinished = null;
      return left;
    });
  }

  /** The report by lane group. */
  async inspect(id: number): Promise<SessionInspection> {
    const { stream, recall } = await this.find(id);
    return this.#parts.engine.betweenSteps(() => ({
      ...stream.cache.report(),
      tier: recall?.report() ?? null,
    }));
  }

  /** Where the session's tokens are, in at most `columns` stretches. */
  async map(id: number, columns: number): Promise<StreamMap> {
    const { stream, recall } = await this.find(id);
    return this.#parts.engine.betweenSteps(() => mapStream(stream.cache, recall, columns));
  }

  /** Whether the session's changes shall be told. */
  async watch(id: number, watched: boolean): Promise<void> {
    (await this.find(id)).watched = watched;
  }

  /** Frees the session's pages; calls that come from now on find it closed. Unknown ids are those of sessions that are. */
  async close(id: number): Promise<void> {
    const made = this.#sessions.get(id);
    this.#sessions.delete(id);
    const session = await made?.catch(() => null);
    if (!session) return;
    await session.moves();
    await this.#parts.engine.betweenSteps(() => this.#leave(session, closed()));
  }

  /** Closes all, with `error` for what is under way. Only between steps, when there are no more to come. */
  async closeAll(error: MillraceError): Promise<void> {
    // Those that are being made would otherwise leave their folders behind.
    await Promise.allSettled(this.#making);
    this.#sessions.clear();
    await Promise.all([...this.#live].map((session) => this.#leave(session, error)));
  }

  /** The session, once it is made and does not stand still. Throws CLOSED, and what making it failed for. */
  async find(id: number): Promise<LiveSession> {
    const session = await this.#sessions.get(id);
    if (!session) throw closed();
    await session.moves();
    return session;
  }

  /** Notes session `id` while it is being made, so that calls which come in the meantime wait for it. */
  async #enter(id: number, make: () => Promise<LiveSession>): Promise<SessionInfo> {
    const made = make();
    this.#sessions.set(id, made);
    this.#making.add(made);
    try {
      return (await made).info();
    } finally {
      this.#making.delete(made);
    }
  }

  #make(parts: SessionParts): LiveSession {
    const session = new LiveSession(this.#context, parts);
    this.#live.add(session);
    return session;
  }

  /** Gives a session its tier; where that cannot be made, nothing is left of the session. */
  async #demote(session: LiveSession, make: (parts: RecallParts) => Promise<Recall>): Promise<LiveSession> {
    try {
      await session.demote(make);
      return session;
    } catch (error) {
      await this.#leave(session, MillraceError.from(error));
      throw error;
    }
  }

  async #leave(session: LiveSession, error: MillraceError): Promise<void> {
    await session.leave(error);
    this.#live.delete(session);
  }
}
