/** The log of a process: written behind its back, so that no request waits for a disk or a slow reader, and whole at its end. */
import { write, writeSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { type Level, type Logger, pino } from "pino";

const writeSome = promisify(write);

/** Bytes that wait before a line waits for those before it: a reader that stands still must not fill the memory. */
const MOST_WAITING = 8 * 2 ** 20;
/** What cannot be written now is tried again after so many milliseconds. */
const RETRY_MS = 10;
/** A process that ends gives a reader that stands still so many milliseconds. */
const PATIENCE_MS = 3000;

/** A logger of JSON lines to `fd`, by default standard error. However the process ends, short of a kill, it has all lines then. */
export function openLog(level: Level | "silent", fd = 2): Logger {
  const writer = new LogWriter(fd);
  process.once("exit", () => writer.flushSync());
  return pino({ level }, writer);
}

/** Lines for a file, a pipe or a terminal. What cannot be written at all, say to a full disk, is lost: there is nowhere to say so. */
export class LogWriter {
  readonly #fd: number;
  readonly #waiting: Buffer[] = [];
  #bytes = 0;
  #writing: Promise<void> | null = null;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Returns at once, but where too much waits. */
  write(line: string): void {
    this.#put(Buffer.from(line));
    if (this.#bytes > MOST_WAITING) this.flushSync();
    else this.#writing ??= this.#writeOn();
  }

  /** Resolves when all that came until now is written. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  /** Writes all that waits. What the system has taken already but not yet written comes out by itself. */
  flushSync(): void {
    let bytes = this.#take();
    let waitedMs = 0;
    while (bytes.length > 0 && waitedMs < PATIENCE_MS) {
      try {
        bytes = bytes.subarray(writeSync(this.#fd, bytes));
        waitedMs = 0;
      } catch (error) {
        if (!isFull(error)) return;
        Atomics.wait(SLEEP, 0, 0, RETRY_MS);
        waitedMs += RETRY_MS;
      }
    }
  }

  async #writeOn(): Promise<void> {
    while (this.#bytes > 0) {
      const bytes = this.#take();
      try {
        const { bytesWritten } = await writeSome(this.#fd, bytes);
        this.#putBack(bytes.subarray(bytesWritten));
      } catch (error) {
        if (!isFull(error)) continue;
        this.#putBack(bytes);
        await pause(RETRY_MS);
      }
    }
    this.#writing = null;
  }

  #put(bytes: Buffer): void {
    this.#waiting.push(bytes);
    this.#bytes += bytes.length;
  }

  #putBack(bytes: Buffer): void {
    this.#waiting.unshift(bytes);
    this.#bytes += bytes.length;
  }

  #take(): Buffer {
    const bytes = Buffer.concat(this.#waiting.splice(0));
    this.#bytes = 0;
    return bytes;
  }
}

const SLEEP = new Int32Array(new SharedArrayBuffer(4));

/** A pipe whose reader is behind. */
const isFull = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === "EAGAIN";
