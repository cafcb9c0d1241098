/** Sessions that clients hold over HTTP: whose they are, how many there may be, and when nobody needs them any more. */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
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

interface Entry extends HeldSession {
  /** Calls under way. */
  busy: number;
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

export class SessionStore {
  readonly #limits: SessionLimits;
  readonly #folder: string | null;
  readonly #entries = new Map<string, Entry>();
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
  restore(
    owner: string,
    served: ServedModel,
    name: string,
    memory: number | string | null,
  ): Promise<HeldSession> {
    const path = this.#path(owner, name);
    return this.#hold(owner, served, async () => {
      await stat(path).catch(() => {
        throw unknownName(name);
      });
      return served.model.restore(path, memory === null ? {} : { memory });
    });
  }

  fork({ owner, served, session }: HeldSession): Promise<HeldSession> {
    return this.#hold(owner, served, () => session.fork());
  }

  /** Runs `call` with a session of `owner`, which is not idle in the meantime. Throws 404 for one that is none. */
  async use<T>(owner: string, id: string, call: (held: HeldSession) => T | Promise<T>): Promise<T> {
    using held = this.borrow(owner, id);
    return await call(held);
  }

  /** As `use`, until it is disposed of. */
  borrow(owner: string, id: string): HeldSession & Disposable {
    const entry = this.#get(owner, id);
    entry.busy++;
    let given = true;
    const giveBack = () => {
      if (!given) return;
      given = false;
      entry.busy--;
      entry.idleSince = performance.now();
    };
    const { served, session, info, created } = entry;
    return { id, owner, served, session, info, created, [Symbol.dispose]: giveBack };
  }

  list(owner: string): HeldSession[] {
    return [...this.#entries.values()].filter((entry) => entry.owner === owner);
  }

  async close(owner: string, id: string): Promise<void> {
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
  async save({ owner, session }: HeldSession, name: string): Promise<number> {
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
    await mkdir(this.#home(owner), { recursive: true, mode: 0o700 });
    return session.save(path);
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
    await rm(this.#path(owner, name)).catch(() => {
      throw unknownName(name);
    });
  }

  async #hold(owner: string, served: ServedModel, open: () => Promise<Session>): Promise<HeldSession> {
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
        busy: 0,
        idleSince: performance.now(),
      };
      this.#entries.set(entry.id, entry);
      this.#watchIdle();
      return entry;
    } finally {
      this.#opening--;
    }
  }

  /** Those of others are unknown, too. */
  #get(owner: string, id: string): Entry {
    const entry = this.#entries.get(id);
    if (entry?.owner === owner) return entry;
    throw new ApiError(
      404,
      "session_not_found",
      "There is no such session; it may have been closed as idle.",
      {
        param: "id",
      },
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

const unknownName = (name: string): ApiError =>
  new ApiError(404, "saved_session_not_found", `Nothing was saved under '${name}'.`, { param: "name" });
