/**
 * One process at a time. A lock is a file that says which process holds it; one that a process left behind when it was
 * killed is found to be that, and taken over.
 */
import { randomUUID } from "node:crypto";
import { readlinkSync } from "node:fs";
import { open, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { MillraceError } from "../errors.js";
import { isAlive } from "./is-alive.js";

/** What a lock says of the process that holds it. */
interface Holder {
  readonly pid: number;
  /** The machine; where processes are numbered apart (containers), with the name of the numbering. */
  readonly host: string;
  /** When the process was started, as its system counts, where that can be known: numbers are given again. */
  readonly started: string | null;
  /** When it was locked: an ISO date. */
  readonly since: string;
  /** Different for every lock. */
  readonly token: string;
}

/** How often a holder shows that it lives, for those on other machines who cannot see its process; milliseconds. */
const BEAT_MS = 2000;
/** A lock of a process that cannot be seen is left behind when it has not moved for so long; milliseconds. */
const SILENCE_MS = 5 * BEAT_MS;

/** The lock of a file or folder. Freed when it is disposed of. */
export class Lock implements AsyncDisposable {
  readonly #path: string;
  readonly #text: string;
  readonly #beat: NodeJS.Timeout;

  private constructor(path: string, text: string) {
    this.#path = path;
    this.#text = text;
    this.#beat = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), BEAT_MS);
    this.#beat.unref();
  }

  /**
   * Locks `path`, which need not exist, for this process, by the file `lock`: `path` with ".lock" behind it. Rejects with
   * IN_USE where another process has it, or this one; WRITE_FAILED. Where the holder is on another machine it may take
   * seconds (`silenceMs`) to know whether it lives.
   */
  static async take(
    path: string,
    {
      lock = `${path}.lock`,
      silenceMs = SILENCE_MS,
    }: { readonly lock?: string; readonly silenceMs?: number } = {},
  ): Promise<Lock> {
    const me: Holder = {
      pid: process.pid,
      host: machine(),
      started: await startOf(process.pid),
      since: new Date().toISOString(),
      token: randomUUID(),
    };
    const text = `${JSON.stringify(me)}\n`;
    for (;;) {
      if (await created(lock, text, path)) return new Lock(lock, text);
      const left = await readFile(lock, "utf8").catch(absent);
      if (left === null) continue;
      const holder = parsed(left);
      if (await isHeld(lock, holder, me.host, silenceMs)) throw inUse(path, lock, holder);
      await putAside(lock, left, me.token, path);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#beat);
    // Somebody may have deleted it, and another process have locked since.
    if ((await readFile(this.#path, "utf8").catch(absent)) === this.#text)
      await rm(this.#path, { force: true });
  }
}

/** Whether the lock was free, and is now held by who wrote `text`. */
async function created(lock: string, text: string, path: string): Promise<boolean> {
  try {
    const file = await open(lock, "wx", 0o600);
    try {
      await file.writeFile(text);
    } catch (error) {
      await rm(lock, { force: true });
      throw error;
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw new MillraceError(
      "WRITE_FAILED",
      `Cannot lock ${path}: ${(error as Error).message}. Make room, or choose a place that can be written.`,
      { path },
      { cause: error },
    );
  }
}

/** A process of this machine is looked up; of any other, only its beat shows that it lives. */
async function isHeld(
  lock: string,
  holder: Holder | null,
  here: string,
  silenceMs: number,
): Promise<boolean> {
  if (holder?.host === here) {
    const started = await startOf(holder.pid);
    return isAlive(holder.pid) && (started === null || holder.started === null || started === holder.started);
  }
  const beat = async () => (await stat(lock).catch(absent))?.mtimeMs;
  const before = await beat();
  for (const until = performance.now() + silenceMs; performance.now() < until; ) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(BEAT_MS / 4, silenceMs / 4)));
    if ((await beat()) !== before) return true;
  }
  return false;
}

/**
 * Takes a lock away that was left behind. Of several processes that try, each moves it to a name of its own, and puts it
 * back where it was not the one they had looked at.
 */
async function putAside(lock: string, left: string, token: string, path: string): Promise<void> {
  const aside = `${lock}.${token}`;
  try {
    await rename(lock, aside);
  } catch {
    return;
  }
  const moved = await readFile(aside, "utf8");
  if (moved !== left) await created(lock, moved, path);
  await rm(aside, { force: true });
}

function parsed(text: string): Holder | null {
  try {
    const holder = JSON.parse(text) as Partial<Holder> | null;
    if (typeof holder?.pid === "number" && typeof holder.host === "string") return holder as Holder;
  } catch {}
  // It may be being written.
  return null;
}

function inUse(path: string, lock: string, holder: Holder | null): MillraceError {
  const who =
    holder === null
      ? "a process that does not say who it is"
      : holder.pid === process.pid && holder.host === machine()
        ? `this very process (${holder.pid}), since ${holder.since}`
        : `process ${holder.pid} on ${nameOf(holder.host)}, since ${holder.since}`;
  return new MillraceError(
    "IN_USE",
    `${path} is in use by ${who}. Wait for it, end it, or name another place. (${lock} says so; ` +
      "what a process leaves behind when it is killed is taken over by itself.)",
    { path, ...(holder ? { pid: holder.pid, host: nameOf(holder.host), since: holder.since } : {}) },
  );
}

/** Processes are numbered per name space: in two containers, two may have one number. */
function machine(): string {
  let numbering = "";
  try {
    numbering = ` ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {}
  return `${hostname()}${numbering}`;
}

const nameOf = (host: string): string => host.split(" ")[0]!;

/** Ticks from the machine's start to the process's, and which start of the machine; null where the system does not say. */
async function startOf(pid: number): Promise<string | null> {
  try {
    const [boot, line] = await Promise.all([
      readFile("/proc/sys/kernel/random/boot_id", "utf8"),
      readFile(`/proc/${pid}/stat`, "utf8"),
    ]);
    // The name of the program, in brackets, may hold anything.
    const ticks = line.slice(line.lastIndexOf(")") + 2).split(" ")[START_FIELD];
    return ticks === undefined ? null : `${boot.trim()} ${ticks}`;
  } catch {
    return null;
  }
}

/** Of /proc/PID/stat, counted from behind the name: see proc(5), where it is number 22. */
const START_FIELD = 19;

/** Null for a file that is not there; anything else is thrown. */
function absent(error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
  throw error;
}
