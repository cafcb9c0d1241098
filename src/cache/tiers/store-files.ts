/** The files of a tier folder, as one lists, scans, copies and writes them, and what is said where that fails. */
import {
  closeSync,
  constants,
  copyFile,
  fsync,
  link,
  openSync,
  readdirSync,
  readSync,
  write,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { MillraceError } from "../../errors.js";
import { makeFolder } from "../../formats/cache-folder.js";
import { type BlockRecord, decodeFileHead, decodeRecord, FILE_HEAD_BYTES } from "./files.js";

const writeAt = promisify(write);
const linkFile = promisify(link);
const copy = promisify(copyFile);
const syncFile = promisify(fsync);

const NAME = /^(\d+)-(\d{8})\.blocks$/;

/** Of the `number`th file of a folder, which holds blocks of a group. */
export const fileName = (group: number, number: number): string =>
  `${group}-${String(number).padStart(8, "0")}.blocks`;

/** Names of a folder's tier files, in order of creation. Throws FILE_NOT_FOUND where there is no such folder. */
export function listFiles(folder: string): { name: string; group: number; number: number }[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    throw unread(folder, cause);
  }
  return names
    .map((name) => ({ name, match: NAME.exec(name) }))
    .filter(({ match }) => match !== null)
    .map(({ name, match }) => ({ name, group: Number(match![1]), number: Number(match![2]) }))
    .sort((a, b) => a.number - b.number);
}

/**
 * The records of a file by place, null where one is torn or damaged; a torn end is left out. With `whole` payloads
 * are checked, else only when they are read. Throws BAD_FORMAT for a file of another model or layout.
 */
export function scanFile(
  path: string,
  expected: {
    readonly fingerprint: string;
    readonly group: number;
    readonly recordBytes: number | undefined;
    readonly headBytes: number;
    readonly whole: boolean;
  },
): (BlockRecord | null)[] {
  const { fingerprint, group, recordBytes, headBytes, whole } = expected;
  const fd = openSync(path, "r");
  try {
    const start = new Uint8Array(FILE_HEAD_BYTES);
    readSync(fd, start, 0, FILE_HEAD_BYTES, 0);
    const head = decodeFileHead(start);
    // Killed while the file was made: nothing is in it.
    if (!head) return [];
    const foreign = head.fingerprint !== fingerprint || head.group !== group;
    if (foreign || recordBytes === undefined || head.recordBytes !== recordBytes) {
      throw new MillraceError(
        "BAD_FORMAT",
        `${path} holds blocks of another model or cache layout. Use the folder with what it was written for, or ` +
          "give another one.",
        { path, got: head.fingerprint, expected: fingerprint },
      );
    }
    const records: (BlockRecord | null)[] = [];
    const bytes = new Uint8Array(whole ? recordBytes : headBytes);
    for (let at = FILE_HEAD_BYTES; ; at += recordBytes) {
      const length = readSync(fd, bytes, 0, bytes.length, at);
      if (length === 0) break;
      const record = decodeRecord(bytes.subarray(0, length), whole);
      records.push(record && { ...record, meta: record.meta.slice(), payload: new Uint8Array() });
    }
    while (records.at(-1) === null) records.pop();
    return records;
  } finally {
    closeSync(fd);
  }
}

export async function writeWhole(fd: number, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await writeAt(fd, bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

export function writeWholeSync(fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}

/**
 * Makes `to` hold the tier files of another folder: links where the file system has them, else copies. Throws
 * FILE_NOT_FOUND where they cannot be read, WRITE_FAILED where there is no room for them.
 */
export async function copyFolder(from: string, to: string): Promise<void> {
  const paths = listFiles(from).map(({ name }) => join(from, name));
  await copyFiles(paths, to).catch((cause: unknown) => {
    throw NO_ROOM.has(codeOf(cause)) ? uncopied(to, cause) : unread(from, cause);
  });
}

/** As `copyFolder`; files of `growing`, to which more will be written, are copied in any case. */
export async function copyFiles(
  paths: readonly string[],
  folder: string,
  growing: ReadonlySet<string> = new Set(),
): Promise<void> {
  await makeFolder(folder, 0o700);
  for (const path of paths) {
    const to = join(folder, basename(path));
    if (growing.has(path)) await copyWhole(path, to);
    else await linkFile(path, to).catch(() => copyWhole(path, to));
  }
}

/** A copy that the device has. */
async function copyWhole(from: string, to: string): Promise<void> {
  await copy(from, to, constants.COPYFILE_EXCL);
  const fd = openSync(to, "r+");
  try {
    await syncFile(fd);
  } finally {
    closeSync(fd);
  }
}

const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException).code;

export const isMissing = (cause: unknown): boolean => codeOf(cause) === "ENOENT";

/** What file systems say where they take no more. */
const NO_ROOM: ReadonlySet<string | undefined> = new Set(["ENOSPC", "EDQUOT", "EFBIG", "EROFS"]);

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

export const unwritten = (folder: string, cause: unknown): MillraceError =>
  new MillraceError(
    "WRITE_FAILED",
    `Blocks could not be written to the disk tier ${folder} (${reasonOf(cause)}); their tokens count as dropped. ` +
      "Free space there or give another folder; the session goes on.",
    { folder },
    { cause },
  );

export const uncopied = (folder: string, cause: unknown): MillraceError =>
  new MillraceError(
    "WRITE_FAILED",
    `The blocks of a disk tier could not be written to ${folder} (${reasonOf(cause)}). Nothing was lost by that; free ` +
      "space there, or choose another place, and try again.",
    { folder },
    { cause },
  );

export const unread = (path: string, cause: unknown): MillraceError =>
  new MillraceError(
    "FILE_NOT_FOUND",
    `The disk tier cannot read ${path} (${reasonOf(cause)}); the tokens in it count as dropped. The session goes on.`,
    { path },
    { cause },
  );

export const damaged = (path: string, place: number): MillraceError =>
  new MillraceError(
    "BAD_FORMAT",
    `Record ${place} of ${path} is damaged: its checksum is wrong; its tokens count as dropped. The session goes on.`,
    { path, place },
  );
