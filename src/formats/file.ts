/** Files: opened once for ranged reading and never read whole; written in a stream and renamed into place. */
import { randomUUID } from "node:crypto";
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { MillraceError } from "../errors.js";
import { makeFolder } from "./cache-folder.js";
import { isAlive } from "./is-alive.js";

export interface OpenFile {
  readonly path: string;
  readonly handle: FileHandle;
  /** Bytes, as they were when the file was opened. */
  readonly size: number;
}

/** One read call moves at most this much: the system call's own limit lies just under 2 GiB. */
const MAX_READ = 2 ** 30;

/** Opens a regular file for reading. Throws FILE_NOT_FOUND where it is absent, unreadable or a folder. */
export async function openFile(path: string): Promise<OpenFile> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, "r");
    const stats = await handle.stat();
    if (stats.isDirectory()) throw new Error("it is a folder, not a file");
    if (!stats.isFile()) throw new Error("it is not a regular file");
    return { path, handle, size: stats.size };
  } catch (error) {
    await handle?.close();
    throw fileError(path, error);
  }
}

/** FILE_NOT_FOUND that says which file and why. */
export function fileError(path: string, error: unknown): MillraceError {
  const code = (error as NodeJS.ErrnoException).code;
  const reason =
    code === "ENOENT" ? "it does not exist" : error instanceof Error ? error.message : String(error);
  return new MillraceError(
    "FILE_NOT_FOUND",
    `Cannot open ${path}: ${reason}. Check the path and its permissions.`,
    { path },
    { cause: error },
  );
}

/** Fills `into` from byte `position` of the file on. Throws BAD_FORMAT where the file ends before. */
export async function readFully(file: OpenFile, position: number, into: Uint8Array): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const length = Math.min(into.length - done, MAX_READ);
    const { bytesRead } = await file.handle.read(into, done, length, position + done);
    if (bytesRead === 0) {
      throw new MillraceError(
        "BAD_FORMAT",
        `${file.path} ends at byte ${position + done}; expected ${into.length} bytes from ${position} on. ` +
          "The file is truncated: fetch it again.",
        { path: file.path, position, expected: into.length, got: done },
      );
    }
    done += bytesRead;
  }
}

/** Closes files, in any order. */
export async function closeAll(files: readonly OpenFile[]): Promise<void> {
  await Promise.all(files.map((file) => file.handle.close()));
}

/** Chunks of a tensor's stored bytes, in order. A chunk may be reused by its producer once the next is asked for. */
export type ByteChunks = Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * Writes a file under a temporary name beside `path` and renames it into place once all of it is on the disk, so that
 * `path` never names a half-written file, whenever the process or the machine dies; where `write` throws, the temporary
 * file is removed and `path` is untouched. Throws WRITE_FAILED where the file system refuses (a full disk).
 */
export async function writeAtomically(
  path: string,
  write: (file: FileWriter) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomUUID().slice(0, 8)}.tmp`;
  let handle: FileHandle | undefined;
  try {
    await makeFolder(dirname(path));
    await checkReplaceable(path);
    handle = await open(temporary, "wx");
    await write(new FileWriter(handle));
    await handle.sync();
    await handle.close();
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await handle?.close().catch(() => {});
    await rm(temporary, { force: true }).catch(() => {});
    throw writeError(path, error);
  }
}

/** A rename would put the file where a device, or a link to one, stands: for who may write there, for the whole machine. */
async function checkReplaceable(path: string): Promise<void> {
  const there = await stat(path).catch(() => null);
  if (!there || there.isFile()) return;
  const what = there.isDirectory() ? "a folder stands there" : "what stands there is no regular file";
  throw new MillraceError("WRITE_FAILED", `Cannot write ${path}: ${what}. Choose another place.`, { path });
}

/** Puts a folder's names on the disk too, where the system can. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(() => null);
  await folder?.sync().catch(() => {});
  await folder?.close();
}

/** WRITE_FAILED that says which file and why, for what the file system refused; anything else as it is. */
function writeError(path: string, error: unknown): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (error instanceof MillraceError || code === undefined || syscall === undefined) return error;
  const reason = code === "ENOSPC" || code === "EDQUOT" ? "the disk is full" : (error as Error).message;
  return new MillraceError(
    "WRITE_FAILED",
    `Cannot write ${path}: ${reason}. What was there before is untouched; make room or choose another place.`,
    { path, reason: code },
    { cause: error },
  );
}

/** Removes what processes that are gone left behind while they wrote `path`. */
export async function removeAbandoned(path: string): Promise<void> {
  const names = await readdir(dirname(path)).catch(() => []);
  for (const name of names) {
    const pid = /^\.(\d+)-[0-9a-f]{8}\.tmp$/.exec(name.slice(basename(path).length))?.[1];
    if (pid === undefined || !name.startsWith(basename(path)) || isAlive(Number(pid))) continue;
    await rm(join(dirname(path), name), { force: true });
  }
}

/** Appends to a file. */
export class FileWriter {
  readonly #handle: FileHandle;
  #position = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Bytes written so far. */
  get position(): number {
    return this.#position;
  }

  async write(bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const length = Math.min(bytes.length - done, MAX_READ);
      const { bytesWritten } = await this.#handle.write(bytes, done, length, this.#position);
      done += bytesWritten;
      this.#position += bytesWritten;
    }
  }

  /** Writes over what stands at `position`; the end of the file stays where it is. */
  async writeAt(position: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, position + done);
      done += bytesWritten;
    }
  }

  /** Writes exactly `byteLength` bytes of tensor `name`. Throws INVALID_ARGUMENT where the chunks make another length. */
  async writeTensor(name: string, byteLength: number, chunks: ByteChunks): Promise<void> {
    const start = this.#position;
    for await (const chunk of chunks instanceof Uint8Array ? [chunks] : chunks) {
      if (this.#position - start + chunk.length > byteLength) {
        throw wrongLength(name, byteLength, `more than ${this.#position - start + chunk.length - 1}`);
      }
      await this.write(chunk);
    }
    if (this.#position - start !== byteLength) {
      throw wrongLength(name, byteLength, String(this.#position - start));
    }
  }

  /** Writes zeros up to the next multiple of `alignment`. */
  async pad(alignment: number): Promise<void> {
    await this.write(new Uint8Array((alignment - (this.#position % alignment)) % alignment));
  }
}

function wrongLength(name: string, expected: number, got: string): MillraceError {
  return new MillraceError(
    "INVALID_ARGUMENT",
    `Data of tensor "${name}": got ${got} bytes, expected ${expected} for its type and shape.`,
    { tensor: name, expected },
  );
}
