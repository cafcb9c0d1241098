/** The sessions of a loaded model, in the worker: each a stream on pages of its own. */
import { dirname, join } from "node:path";
import type { Backend, Program, ProgramLimits } from "../../backends/contract.js";
import { type CacheLayout, planLayout } from "../../cache/layout.js";
import { resolvePolicy } from "../../cache/policies/resolve.js";
import type { ModelHeads } from "../../cache/policies/split.js";
import { KvPool } from "../../cache/pool.js";
import { type CacheEvent, SequenceCache } from "../../cache/sequence.js";
import { mapStream, type StreamMap } from "../../cache/stream-map.js";
import { PROBE_TOKENS, probeLimits } from "../../cache/tiers/probe.js";
import { Recall, type Recalled, type RecallParts } from "../../cache/tiers/recall.js";
import type { Emission } from "../../decoding/contract.js";
import { MillraceError } from "../../errors.js";
import type { Constraint } from "../../sampling/grammar/constraint.js";
import type { Limits } from "../../scheduler/contract.js";
import type { Tape } from "../../tape/tape.js";
import { formatBytes } from "../bytes.js";
import type { Engine } from "../engine.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";
import type { Language } from "../language.js";
import { Passing } from "../passing.js";
import type { CacheSpec } from "../policies.js";
import {
  type AnswerParameters,
  type AppendParameters,
  type Calls,
  type GenerationEnd,
  MAX_UNREAD_PIECES,
  type Prompt,
  type Scores,
  type SessionInfo,
  type SessionInspection,
  type SessionParameters,
  type SessionReport,
} from "../protocol.js";
import { onEngineClock } from "../standing.js";
import type { Place } from "../task.js";
import { openSessionFile } from "./file.js";
import { defaultCache, fitSession, type SessionFit } from "./fit.js";
import { readManifest, type UnfinishedAnswer } from "./manifest.js";
import {
  Questions,
  type RecallSpec,
  recallShare,
  settingsOf,
  tierFingerprint,
  tierFolder,
} from "./recall.js";
import { checkIdentity, readStream, savedAdapter, saveSession } from "./saving.js";
import { type AnswerListener, type AppendListener, Stream, type StreamParts } from "./stream.js";

export interface SessionsParts {
  readonly engine: Engine;
  readonly language: Language;
  readonly backend: Backend;
  readonly tape: Tape;
  readonly limits: Limits;
  /** The model's own cache, for what a session's caller leaves open. */
  readonly cache: CacheSpec;
  /** Which heads retrieve, where that was ever found out. */
  readonly heads: ModelHeads;
  /** Which model and tokenizer these are, for saved sessions. */
  readonly identity: ModelIdentity;
  /** That sessions may name, in the order of their numbers. */
  readonly adapters: readonly AdapterIdentity[];
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

/** What sessions have to say between calls. Told during steps and calls; must not call back. */
export interface SessionsListener {
  /** A session has work: the engine is to be driven. */
  wake(): void;
  report(session: number, report: SessionReport): void;
  change(session: number, event: CacheEvent): void;
}

/** Pages that a session and its forks share, and what they may hold of them. */
interface Home {
  readonly place: Place;
  readonly fit: SessionFit;
  readonly cache: CacheSpec;
  readonly scratchBytes: number;
  readonly members: Set<Session>;
  readonly recall: RecallSpec | null;
  /** Where keys are looked at: what asks a model for queries. */
  readonly questions: Questions | null;
}

interface Session {
  readonly home: Home;
  readonly stream: Stream;
  /** Pages that stand for the tables of a fork, so that all stay within the budget. */
  readonly withheld: Int32Array;
  unfinished: UnfinishedAnswer | null;
  watched: boolean;
  /** The tier below its cache; null also while the session is being made. */
  recall: Recall | null;
  /** While it is saved, or asked what it recalls. */
  standing: Promise<unknown> | null;
}

const NONE = new Int32Array();

export class Sessions {
  readonly #parts: SessionsParts;
  readonly #listener: SessionsListener;
  readonly #sessions = new Map<number, Promise<Session>>();
  readonly #open = new Set<Session>();
  /** By the call that asked for it: whose answer it is. */
  readonly #answers = new Passing<Stream>();
  readonly #appends = new Passing<Stream>();
  /** Answers for which something is being recalled or compiled, and whether they were broken off meanwhile. */
  readonly #making = new Passing<{ broken: boolean }>();
  /** Tiers whose folders are being removed. */
  readonly #leaving = new Set<Promise<void>>();
  /** Bytes of all sessions' budgets, and of what asks models. */
  #bytes = 0;

  constructor(parts: SessionsParts, listener: SessionsListener) {
    this.#parts = parts;
    this.#listener = listener;
  }

  /**
   * Opens session `id`. Throws INVALID_ARGUMENT for a policy that does not fit the model, OUT_OF_BUDGET where its
   * memory does not hold what the policy needs, or the model's budget or the machine not its memory.
   */
  open(id: number, { memoryBytes, cache, recall, adapter }: SessionParameters): Promise<SessionInfo> {
    return this.#enter(id, async () => {
      const { tape, limits, context } = this.#parts;
      const blocks = recall && {
        pageTokens: recall.block,
        share: (layout: CacheLayout) => recallShare(tape, layout, recall),
      };
      const codec = cache.codec ?? this.#parts.cache.codec;
      const spec =
        cache.policy && cache.policy.policy !== "auto"
          ? { policy: cache.policy, codec }
          : defaultCache(tape.kv, codec, limits.maxTokens, memoryBytes, context, blocks);
      const home = await this.#makeHome(spec, memoryBytes, recall);
      const number = this.#parts.adapters.findIndex(({ name }) => name === adapter);
      const session = this.#join(id, home, () => ({
        cache: new SequenceCache(home.place.pool, home.place.layout),
        ...(number < 0 ? {} : { adapter: number }),
      }));
      return this.#demote(session, (parts) => Recall.create(parts));
    });
  }

  /** A session `id` that goes on from where another stands. Throws OUT_OF_BUDGET where both cannot fill their caches. */
  fork(id: number, from: number): Promise<SessionInfo> {
    return this.#enter(id, async () => {
      const source = await this.#session(from);
      const { home, stream, recall } = source;
      const { pool } = home.place;
      const withheld = Math.ceil(home.fit.tableBytes / pool.pageBytes);
      const { pages } = home.fit;
      const taken = [...home.members].reduce((sum, member) => sum + member.withheld.length, withheld);
      const needed = (home.members.size + 1) * (pages ?? 0) + taken;
      if (needed > pool.numPages) {
        throw new MillraceError(
          "OUT_OF_BUDGET",
          `A fork shares the session's memory, and ${home.members.size + 1} sequences may come to hold ${needed} pages of ` +
            `${formatBytes(pool.pageBytes)}; there are ${pool.numPages}. Open the session with more memory.`,
          { needed, pages: pool.numPages, pageBytes: pool.pageBytes },
        );
      }
      const { engine } = this.#parts;
      if (!recall) return engine.betweenSteps(() => this.#join(id, home, () => stream.fork(), withheld));
      return this.#standing(source, () => {
        const fork = this.#join(id, home, () => stream.fork(), withheld);
        return this.#demote(fork, ({ cache, folder }) => recall.fork(cache, folder));
      });
    });
  }

  /** Takes tokens in; resolves, with how many they are, once at most the last of them waits. Throws as `Stream.append`. */
  async append(id: number, parameters: AppendParameters): Promise<number> {
    const { tokens } = await this.#append(id, parameters, false);
    return tokens.length;
  }

  /** Likewise, with what the model gave to each token. */
  appendScored(id: number, parameters: AppendParameters): Promise<Scores> {
    return this.#append(id, parameters, true);
  }

  async #append(
    id: number,
    { session, prompt, standing }: AppendParameters,
    scored: boolean,
  ): Promise<Scores> {
    const { stream } = await this.#session(session);
    const { engine } = this.#parts;
    return new Promise((resolve, reject) => {
      const start = () => {
        const tokens = this.#encode(stream, prompt);
        engine.checkTokens(tokens);
        const settle = (then: () => void) => {
          this.#appends.delete(id);
          then();
        };
        this.#appends.set(id, stream);
        const logprobs = new Float32Array(scored ? tokens.length : 0).fill(Number.NaN);
        const scores = { tokens, logprobs };
        const listener: AppendListener = {
          end: () => settle(() => resolve(scores)),
          fail: (error) => settle(() => reject(error)),
        };
        stream.append(id, tokens, listener, {
          scores: scored ? scores : null,
          standing: onEngineClock(standing),
        });
        if (prompt instanceof Int32Array || typeof prompt === "string") {
          if (stream.before === "nothing") stream.before = "text";
        } else stream.before = prompt.options.addGenerationPrompt === false ? "turn" : "answer";
      };
      engine.betweenSteps(start).catch((error: unknown) => {
        this.#appends.delete(id);
        reject(error);
      });
    });
  }

  /** Answers from where the session stands. Throws as `Stream.ask`, and INVALID_ARGUMENT for wrong options. */
  async answer(
    id: number,
    { session, answer: parameters, standing }: Calls["answer"]["parameters"],
    emit: (emission: Emission) => void,
  ): Promise<GenerationEnd> {
    const entry = await this.#session(session);
    const { stream } = entry;
    const { engine, language, context } = this.#parts;
    const making = { broken: false };
    this.#making.set(id, making);
    let constraint: Constraint | null = null;
    try {
      if (parameters !== "resume") await this.#recallFor(entry);
      constraint = await this.#hold(entry, parameters);
    } finally {
      this.#making.delete(id);
    }
    return new Promise((resolve, reject) => {
      const start = () => {
        stream.checkAskable();
        const after = stream.tail();
        const saved = parameters === "resume" ? entry.unfinished : null;
        if (parameters === "resume" && !saved) {
          throw new MillraceError("INVALID_ARGUMENT", "The session has no unfinished answer to go on with.");
        }
        const asked = saved?.parameters ?? (parameters as AnswerParameters);
        const stop = saved || stream.before === "text" ? asked.stop : [...asked.stop, ...language.turnEnds()];
        const room = Number.isFinite(stream.capacity) ? stream.capacity - stream.length + 1 : context;
        const whole = { ...asked, stop, maxTokens: asked.maxTokens ?? Math.max(1, room) };
        const answer = {
          parameters: whole,
          decoder: language.decoder(whole, after, saved?.decoder, constraint ?? undefined),
          promptTokens: saved?.promptTokens ?? stream.waiting.length,
        };
        this.#answers.set(id, stream);
        const settle = (then: () => void) => {
          this.#answers.delete(id);
          constraint?.dispose();
          then();
        };
        entry.unfinished = null;
        const listener: AnswerListener = {
          emit,
          end: (end) => settle(() => resolve(end)),
          fail: (error) => settle(() => reject(error)),
        };
        stream.ask(id, answer, MAX_UNREAD_PIECES, listener, onEngineClock(standing));
        if (making.broken) stream.breakOff();
      };
      engine.betweenSteps(start).catch((error: unknown) => {
        constraint?.dispose();
        reject(error);
      });
    });
  }

  /** Lets answer `id` give more pieces. Unknown ids are those that have ended. */
  grant(id: number, pieces: number): void {
    this.#answers.get(id)?.grant(pieces);
  }

  /** Breaks answer `id` off, or takes back what of append `id` has not been run. Unknown ids are those that have ended. */
  async cancel(id: number): Promise<void> {
    await this.#parts.engine.betweenSteps(() => {
      const making = this.#making.get(id);
      if (making) making.broken = true;
      this.#answers.get(id)?.breakOff();
      this.#appends.get(id)?.abandon(id);
    });
  }

  /** See `Stream.rewind`. */
  async rewind(session: number, to: number): Promise<"exact" | "approximate"> {
    const entry = await this.#session(session);
    return this.#parts.engine.betweenSteps(() => {
      const left = entry.stream.rewind(to);
      entry.unfinished = null;
      return left;
    });
  }

  /**
   * Brings back what a question is about, or what was appended last: the blocks that are most likely to be needed are
   * attended until the next recall. Throws INVALID_ARGUMENT where the session has no disk tier or nothing was asked.
   */
  async recall(session: number, question: Prompt | null): Promise<Recalled> {
    const entry = await this.#session(session);
    return this.#standing(entry, async () => {
      const { recall, stream, home } = entry;
      if (!recall) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          'The session has nowhere to recall from; open it with recall: { disk: "2 GiB" } or the like.',
        );
      }
      const ids = question === null ? stream.question : this.#encode(stream, question);
      this.#parts.engine.checkTokens(ids);
      if (ids.length === 0) {
        throw new MillraceError("INVALID_ARGUMENT", "There is no question; append one, or give its text.");
      }
      return Questions.recall(home.questions, recall, stream, ids);
    });
  }

  /**
   * Writes the session to one file, in place of what was there, or fails and leaves that. It stands still in the meantime;
   * others go on. Resolves with the file's bytes. Throws WRITE_FAILED.
   */
  async save(session: number, path: string): Promise<number> {
    const entry = await this.#session(session);
    const { stream, recall, home } = entry;
    return this.#standing(entry, () => {
      const saved = {
        identity: this.#parts.identity,
        adapter: this.#adapterOf(stream),
        cache: home.cache,
        memoryBytes: home.fit.memoryBytes,
        stream,
        unfinished: entry.unfinished,
        tier: recall && home.recall && { recall, spec: home.recall },
      };
      return saveSession(path, saved, () => {
        if (!this.#open.has(entry)) throw closed();
      });
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
        const { cache, recall } = manifest;
        const home = await this.#makeHome(cache, memoryBytes ?? manifest.memoryBytes, recall?.spec ?? null);
        const checkTokens = (tokens: Int32Array) => engine.checkTokens(tokens);
        const make = () => ({ ...readStream(path, file, manifest, home.place, checkTokens), ...adapter });
        const session = this.#join(id, home, make, 0, manifest.unfinished);
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

  /** The report by lane group. */
  async inspect(session: number): Promise<SessionInspection> {
    const { stream, recall } = await this.#session(session);
    return this.#parts.engine.betweenSteps(() => ({
      ...stream.cache.report(),
      tier: recall?.report() ?? null,
    }));
  }

  /** Where the session's tokens are, in at most `columns` stretches. */
  async map(session: number, columns: number): Promise<StreamMap> {
    const { stream, recall } = await this.#session(session);
    return this.#parts.engine.betweenSteps(() => mapStream(stream.cache, recall, columns));
  }

  /** Whether the session's changes shall be told. */
  async watch(session: number, watched: boolean): Promise<void> {
    (await this.#session(session)).watched = watched;
  }

  /** Frees the session's pages. Unknown ids are those of sessions that are closed. */
  async close(session: number): Promise<void> {
    const entry = await this.#session(session).catch(() => null);
    this.#sessions.delete(session);
    if (entry) await this.#parts.engine.betweenSteps(() => this.#leave(entry, closed()));
    await Promise.all(this.#leaving);
  }

  /** Closes all, with `error` for what is under way. Only between steps. */
  async closeAll(error: MillraceError): Promise<void> {
    for (const entry of [...this.#open]) this.#leave(entry, error);
    this.#sessions.clear();
    await Promise.all(this.#leaving);
  }

  /** The session, once it is made and does not stand still. */
  async #session(id: number): Promise<Session> {
    const session = await this.#sessions.get(id);
    if (!session) throw closed();
    while (session.standing) await session.standing;
    return session;
  }

  /** Lets a session stand still for as long as `act` takes; others go on, and calls to this one wait. */
  async #standing<T>(session: Session, act: () => Promise<T>): Promise<T> {
    while (session.standing) await session.standing;
    const doing = this.#parts.engine.betweenSteps(() => {
      session.stream.pause();
      return act();
    });
    session.standing = doing.catch(() => {});
    try {
      return await doing;
    } finally {
      session.standing = null;
      if (this.#open.has(session)) session.stream.resume();
    }
  }

  /** Recalls for an answer where the session does so by itself. */
  async #recallFor(session: Session): Promise<void> {
    const { recall, home, stream } = session;
    if (!recall || !home.recall?.auto) return;
    if (recall.isEmpty) return recall.heed(stream.question);
    // What stands before the question is run without what the question brings back.
    await stream.idle();
    await this.#standing(session, async () => {
      stream.checkAskable();
      await Questions.recall(home.questions, recall, stream, stream.question);
    });
  }

  /** What holds an answer to its format, where it has one. */
  async #hold(session: Session, parameters: AnswerParameters | "resume"): Promise<Constraint | null> {
    const { stream, unfinished } = session;
    const format = parameters === "resume" ? unfinished?.parameters.format : parameters.format;
    if (!format) return null;
    const accepted = parameters === "resume" ? unfinished?.decoder.accepted : undefined;
    return this.#standing(session, () => {
      stream.checkAskable();
      return this.#parts.language.hold(format, accepted);
    });
  }

  /** Gives a session whose policy has a tier below it that tier. The session is gone where it cannot be made. */
  async #demote(session: Session, make: (parts: RecallParts) => Promise<Recall>): Promise<Session> {
    const { home, stream } = session;
    const { tape, identity } = this.#parts;
    if (!home.recall) return session;
    const { pool, layout } = home.place;
    try {
      session.recall = await make({
        cache: stream.cache,
        pool,
        tape,
        fingerprint: tierFingerprint(identity, this.#adapterOf(stream), layout),
        folder: tierFolder(home.recall.dir),
        settings: settingsOf(tape, layout, home.recall),
      });
      return session;
    } catch (error) {
      this.#leave(session, MillraceError.from(error));
      throw error;
    }
  }

  /** Notes session `id` while it is being made, so that calls which come in the meantime wait for it. */
  async #enter(id: number, make: () => Promise<Session>): Promise<SessionInfo> {
    const made = make();
    made.catch(() => {});
    this.#sessions.set(id, made);
    const { home, stream, unfinished } = await made;
    const { fit, cache, place } = home;
    return {
      cache,
      recall: home.recall,
      adapter: this.#adapterOf(stream)?.name ?? null,
      memoryBytes: fit.memoryBytes,
      pageBytes: place.pool.pageBytes,
      capacity: fit.capacity,
      report: stream.report(),
      unfinished: unfinished !== null,
    };
  }

  #adapterOf({ adapter }: Stream): AdapterIdentity | null {
    return adapter === undefined ? null : this.#parts.adapters[adapter]!;
  }

  #join(
    id: number,
    home: Home,
    make: () => Pick<StreamParts, "cache"> & Partial<StreamParts>,
    withheld = 0,
    unfinished: UnfinishedAnswer | null = null,
  ): Session {
    const ballast = withheld === 0 ? NONE : new Int32Array(withheld);
    const { pool } = home.place;
    if (withheld > 0) pool.take(ballast);
    try {
      const session: Session = {
        home,
        withheld: ballast,
        unfinished,
        watched: false,
        standing: null,
        recall: null,
        stream: new Stream({
          ...make(),
          id,
          place: home.place,
          capacity: home.fit.capacity,
          heldBack: home.recall?.auto ? PROBE_TOKENS : 1,
          ...(home.recall && {
            onTake: (positions: Int32Array, tokens: Int32Array) => session.recall?.saw(positions, tokens),
          }),
          wake: (stream) => {
            this.#parts.engine.enlist(stream);
            this.#listener.wake();
          },
          onReport: (report) => this.#listener.report(id, report),
          onChange: (event) => {
            if (session.watched) this.#listener.change(id, event);
          },
        }),
      };
      home.members.add(session);
      this.#open.add(session);
      return session;
    } catch (error) {
      pool.release(ballast);
      if (home.members.size === 0) this.#dropHome(home);
      throw error;
    }
  }

  #leave(session: Session, error: MillraceError): void {
    if (!this.#open.delete(session)) return;
    const { home, stream, withheld, recall } = session;
    this.#parts.engine.withdraw(stream);
    stream.close(error);
    if (recall) {
      const leaving = recall
        .dispose()
        .catch(() => {})
        .then(() => void this.#leaving.delete(leaving));
      this.#leaving.add(leaving);
    }
    home.place.pool.release(withheld);
    home.members.delete(session);
    if (home.members.size === 0) this.#dropHome(home);
  }

  async #makeHome(cache: CacheSpec, memoryBytes: number | null, recall: RecallSpec | null): Promise<Home> {
    const { tape, limits, heads, context, backend, spareBytes } = this.#parts;
    const { codec } = cache;
    const layout = planLayout({
      kv: tape.kv,
      policy: resolvePolicy(cache.policy, heads),
      codec,
      step: limits.maxTokens,
      ...(recall && { pageTokens: recall.block }),
    });
    const fit = fitSession(
      layout,
      memoryBytes,
      context,
      recall ? recallShare(tape, layout, recall) : undefined,
    );
    const asks = recall !== null && recall.by !== "tokens";
    const scratchBytes = asks ? this.#parts.questions.scratchBytes(probeLimits(tape, layout)) : 0;
    const needs = fit.memoryBytes + scratchBytes;
    if (spareBytes !== null && this.#bytes + needs > spareBytes) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `The session needs ${formatBytes(needs)} and the model's budget leaves ${formatBytes(spareBytes - this.#bytes)}. ` +
          "Open the model with more memory, or with fewer sequences or a shorter context.",
        { needs, has: spareBytes - this.#bytes },
      );
    }
    const pool = new KvPool(backend, { pageBytes: layout.pageBytes, budgetBytes: fit.poolBytes });
    try {
      const { compile } = this.#parts.questions;
      const questions = asks ? await Questions.make(tape, layout, pool, compile) : null;
      this.#bytes += needs;
      return { place: { pool, layout }, fit, cache, scratchBytes, members: new Set(), recall, questions };
    } catch (error) {
      pool.dispose();
      throw error;
    }
  }

  #dropHome({ place, fit, scratchBytes, questions }: Home): void {
    questions?.dispose();
    place.pool.dispose();
    this.#bytes -= fit.memoryBytes + scratchBytes;
  }

  #encode(stream: Stream, prompt: Prompt): Int32Array {
    const { language } = this.#parts;
    const tokens = language.encodeAfter(prompt, stream.before);
    const [first] = tokens;
    // The end token that the model gave stands in the stream already.
    const closes = stream.before === "answer" && typeof prompt === "object" && "messages" in prompt;
    const last = stream.waiting.at(-1);
    const isEnd = first !== undefined && first === last && language.tokenizer?.eosIds.has(first);
    return closes && isEnd ? tokens.subarray(1) : tokens;
  }
}

const closed = (): MillraceError => new MillraceError("CLOSED", "The session was closed.");
