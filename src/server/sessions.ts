/** Sessions that clients hold over HTTP: whose they are, how many there may be, and when nobody needs them any more. */
import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../formats/cache-folder.js";
import type { Session, SessionInfo, SessionOptions } from "../index.js";
import { ApiError } from "./errors.js";
import { newId, now } from "./identity.js";
import type { ServedModel } from "./models.js";
import type { ServerLimits } from "./options.js";

/** A session with what the server knows of it. */
export interface HeldSession {
  readonly id: string;
  readonly owner: string;
  readonly served: ServedModel;
  readonly session: Session;
  readonly info: SessionInfo;
  /** Seconds since 1970. */
  readonly created: number;
}

/** A session that cannot become idle until it is disposed of. */
export interface BorrowedSession extends HeldSession, Disposable {
  /** Takes the session's turn to answer, which is free again when it is disposed of. Throws 409 where an answer is under way. */
  takeTurn(): Disposable;
}

/** What is left of a session whose engine crashed. */
interface Loss {
  readonly owner: string;
  /** The last save of it, or the one that it came from. */
  readonly save: Save | null;
}

/** A save under a name, as long as nobody has put something else there: `serial` says which it was. */
interface Save {
  readonly name: string;
  readonly serial: number;
}

interface Entry extends HeldSession {
  save: Save | null;
  /** Calls under way. */
  busy: number;
  /** One of them is an answer. */
  answering: boolean;
  /** When the last one ended, in milliseconds. */
  idleSince: number;
}

export interface SavedSession {
  readonly name: string;
  readonly bytes: number;
  /** Seconds since 1970. */
  readonly saved: number;
}

type SessionLimits = Pick<ServerLimits, "sessions" | "sessionIdleMs" | "savedSessions">;

const SUFFIX = ".session";
/** Lost sessions that are remembered, so that their clients are told. */
const MOST_LOSSES = 1000;

export class SessionStore {
  readonly #limits: SessionLimits;
  readonly #folder: string | null;
  readonly #entries = new Map<string, Entry>();
  readonly #losses = new Map<string, Loss>();
  /** By path, which save it holds, of those made or read here. */
  readonly #saves = new Map<string, number>();
  #nextSave = 1;
  /** Sessions that are being opened. */
  #opening = 0;
  #sweep: NodeJS.Timeout | null = null;

  /** @param folder Where sessions are saved; null: they cannot be. */
  constructor(limits: SessionLimits, folder: string | null) {
    this.#limits = limits;
    this.#folder = folder;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Opens a session of `owner`. Rejects with what opening fails for, and 503 where there are too many. */
  open(owner: string, served: ServedModel, options: SessionOptions): Promise<HeldSession> {
    return this.#hold(owner, served, async () => served.model.session(options));
  }

  /** As `open`, from what was saved under `name`. Rejects with 404 where nothing was. */
  async restore(
    owner: string,
    served: ServedModel,
    name: string,
    memory: number | string | null,
  ): Promise<HeldSession> {
    const path = this.#path(owner, name);
    let serial = 0;
    const entry = await this.#hold(owner, served, async () => {
      await stat(path).catch(() => {
        throw unknownName(name);
      });
      serial = this.#saves.get(path) ?? this.#nextSave++;
      this.#saves.set(path, serial);
      return served.model.restore(path, memory === null ? {} : { memory });
    });
    entry.save = { name, serial };
    return entry;
  }

  fork({ owner, served, session }: HeldSession): Promise<HeldSession> {
    return this.#hold(owner, served, () => session.fork());
  }

  /** Runs `call` with a session of `owner`, which is not idle in the meantime. Throws 404 for one that is none. */
  async use<T>(owner: string, id: string, call: (held: HeldSession) => T | Promise<T>): Promise<T> {
    using held = this.borrow(owner, id);
    return await call(held);
  }

  /** Throws as `use` does for a session that was borrowed and may have gone since. */
  check({ owner, id }: Pick<HeldSession, "owner" | "id">): void {
    this.#get(owner, id);
  }

  /** All sessions of a model are gone with its engine; returns how many. Their clients are told when they ask for them. */
  lose(served: ServedModel): number {
    const gone = [...this.#entries.values()].filter((entry) => entry.served === served);
    for (const { id, owner, save } of gone) {
      this.#entries.delete(id);
      this.#losses.set(id, { owner, save });
    }
    for (const id of this.#losses.keys()) {
      if (this.#losses.size <= MOST_LOSSES) break;
      this.#losses.delete(id);
    }
    return gone.length;
  }

  /** As `use`, until it is disposed of. */
  borrow(owner: string, id: string): BorrowedSession {
    const entry = this.#get(owner, id);
    entry.busy++;
    const giveBack = once(() => {
      entry.busy--;
      entry.idleSince = performance.now();
    });
    const takeTurn = (): Disposable => {
      if (entry.answering)
        throw new ApiError(409, "busy", "The session is answering: cancel that, or wait for its end.");
      entry.answering = true;
      return {
        [Symbol.dispose]: once(() => {
          entry.answering = false;
        }),
      };
    };
    const { served, session, info, created } = entry;
    return { id, owner, served, session, info, created, takeTurn, [Symbol.dispose]: giveBack };
  }

  list(owner: string): HeldSession[] {
    return [...this.#entries.values()].filter((entry) => entry.owner === owner);
  }

  async close(owner: string, id: string): Promise<void> {
    if (this.#losses.get(id)?.owner === owner) {
      this.#losses.delete(id);
      return;
    }
    const entry = this.#get(owner, id);
    this.#entries.delete(id);
    await entry.session.close();
  }

  async closeAll(): Promise<void> {
    if (this.#sweep) clearInterval(this.#sweep);
    this.#sweep = null;
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    await Promise.all(entries.map(({ session }) => session.close()));
  }

  /** Saves under a name, which the schema has checked; resolves with the file's bytes. */
  async save({ id, owner, session }: HeldSession, name: string): Promise<number> {
    const path = this.#path(owner, name);
    const saved = await this.saved(owner);
    const { savedSessions } = this.#limits;
    if (saved.length >= savedSessions && !saved.some((one) => one.name === name)) {
      throw new ApiError(
        409,
        "too_many_saved",
        `There are ${saved.length} saved sessions, as many as there may be; delete one.`,
        { details: { saved: saved.length, limit: savedSessions } },
      );
    }
    await makeFolder(this.#home(owner), 0o700);
    const bytes = await session.save(path);
    const serial = this.#nextSave++;
    this.#saves.set(path, serial);
    const entry = this.#entries.get(id);
    if (entry) entry.save = { name, serial };
    return bytes;
  }

  /** What `owner` has saved, by name. */
  async saved(owner: string): Promise<SavedSession[]> {
    const home = this.#home(owner);
    const files = await readdir(home).catch(() => [] as string[]);
    const names = files.filter((file) => file.endsWith(SUFFIX)).sort();
    const found = await Promise.all(
      names.map(async (file) => {
        const known = await stat(join(home, file)).catch(() => null);
        if (known === null) return [];
        const saved = Math.floor(known.mtimeMs / 1000);
        return [{ name: file.slice(0, -SUFFIX.length), bytes: known.size, saved }];
      }),
    );
    return found.flat();
  }

  /** Throws 404 where nothing was saved under `name`. */
  async forget(owner: string, name: string): Promise<void> {
    const path = this.#path(owner, name);
    await rm(path).catch(() => {
      throw unknownName(name);
    });
    this.#saves.delete(path);
  }

  async #hold(owner: string, served: ServedModel, open: () => Promise<Session>): Promise<Entry> {
    const { sessions } = this.#limits;
    if (this.#entries.size + this.#opening >= sessions) {
      throw new ApiError(
        503,
        "too_many_sessions",
        `The server holds ${sessions} sessions, as many as it may; close one, or try again later.`,
        { headers: { "Retry-After": "60" }, details: { sessions } },
      );
    }
    this.#opening++;
    try {
      const session = await open();
      const info = await session.opened;
      const entry: Entry = {
        id: newId("sess_"),
        owner,
        served,
        session,
        info,
        created: now(),
        save: null,
        busy: 0,
        answering: false,
        idleSince: performance.now(),
      };
      this.#entries.set(entry.id, entry);
      this.#watchIdle();
      return entry;
    } finally {
      this.#opening--;
    }
  }

  /** Those of others are unknown, too. Throws 410 for one that died with its engine. */
  #get(owner: string, id: string): Entry {
    const entry = this.#entries.get(id);
    if (entry?.owner === owner) return entry;
    const loss = this.#losses.get(id);
    if (loss?.owner === owner) throw this.#lost(loss);
    throw new ApiError(
      404,
      "session_not_found",
      "There is no such session; it may have been closed as idle.",
      {
        param: "id",
      },
    );
  }

  #lost({ owner, save }: Loss): ApiError {
    const what = "The session's engine has crashed, and the session is gone.";
    const isThere = save !== null && this.#saves.get(this.#path(owner, save.name)) === save.serial;
    if (!isThere) {
      return new ApiError(410, "session_lost", `${what} There is no save of it; open a new one.`, {
        param: "id",
      });
    }
    const { name } = save;
    return new ApiError(
      410,
      "session_lost",
      `${what} Its last save is '${name}': restore that, and append what came after.`,
      { param: "id", details: { saved: name } },
    );
  }

  #watchIdle(): void {
    const { sessionIdleMs } = this.#limits;
    this.#sweep ??= setInterval(
      () => {
        const now = performance.now();
        for (const { id, session, busy, idleSince } of this.#entries.values()) {
          if (busy > 0 || now - idleSince < sessionIdleMs) continue;
          this.#entries.delete(id);
          void session.close();
        }
      },
      Math.min(Math.max(sessionIdleMs / 4, 10), 60_000),
    ).unref();
  }

  #path(owner: string, name: string): string {
    return join(this.#home(owner), `${name}${SUFFIX}`);
  }

  #home(owner: string): string {
    if (this.#folder !== null) return join(this.#folder, owner);
    throw new ApiError(
      501,
      "saving_off",
      "This server saves no sessions: it was started without a folder for them.",
    );
  }
}

/** Does `what` the first time that it is called. */
function once(what: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    what();
  };
}

const unknownName = (name: string): ApiError =>
  new ApiError(404, "saved_session_not_found", `Nothing was saved under '${name}'.`, { param: "name" });
