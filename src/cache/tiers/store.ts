/**
 * A tier folder: blocks of tokens on disk under a hard byte budget. It knows bytes and files (files.ts) and nothing
 * of what they mean.
 *
 * Writes happen behind the caller's back, in order, from a bounded queue; a record that is still queued can be read.
 * Where the queue is full, the caller waits for its own record: never is more memory taken, and nothing is given up.
 * A process that is killed at any moment leaves whole records and at most torn ones, which `openStore` leaves out.
 */
import {
  closeSync,
  constants,
  fdatasync,
  mkdirSync,
  open,
  openSync,
  read,
  rmSync,
  unlinkSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { MillraceError } from "../../errors.js";
import {
  type BlockRecord,
  type BlockSpan,
  decodeRecord,
  encodeFileHead,
  encodeRecord,
  FILE_HEAD_BYTES,
  type FileHead,
} from "./files.js";
import {
  copyFiles,
  damaged,
  fileName,
  isMissing,
  listFiles,
  scanFile,
  uncopied,
  unread,
  unwritten,
  writeWhole,
  writeWholeSync,
} from "./store-files.js";

const openFile = promisify(open);
const readAt = promisify(read);
const syncFile = promisify(fdatasync);

export interface StoreOptions {
  readonly folder: string;
  /** What the bytes belong to, in a short line: a hash of model and layout. */
  readonly fingerprint: string;
  /** Bytes of a record, by group; see `recordBytesFor`. */
  readonly recordBytes: readonly number[];
  /** Bytes of a record up to its payload, by group; see `headBytesFor`. */
  readonly headBytes: readonly number[];
  /** Most bytes of all files together. */
  readonly budgetBytes: number;
  /** Most bytes of records that wait to be written. */
  readonly queueBytes: number;
}

/** Records that are gone: `error` says why, null where the budget pushed them out. */
export interface Loss {
  readonly group: number;
  readonly serials: readonly number[];
  /** Of each of them. */
  readonly spans: readonly BlockSpan[];
  readonly error: MillraceError | null;
}

export interface StoreUsage {
  readonly files: number;
  readonly diskBytes: number;
  readonly budgetBytes: number;
  /** Not yet written. */
  readonly queuedBytes: number;
}

/** A record that `openStore` found whole, without its payload. */
export interface FoundRecord extends Omit<BlockRecord, "payload"> {
  readonly group: number;
}

interface BlockFile {
  readonly path: string;
  readonly group: number;
  /** Serial of the record in each place, ascending; a fraction where there is none (see `hole`). */
  readonly serials: number[];
  /** By place: the numbers of its `BlockSpan`. */
  readonly spans: number[];
  bytes: number;
  /** Open while records are still added to it. */
  fd: number | null;
  /** Writes under way; the file is closed after the last. */
  writes: number;
  removed: boolean;
}

interface Queued {
  readonly file: BlockFile;
  readonly place: number;
  readonly serial: number;
  readonly bytes: Uint8Array;
}

/** A folder is cut into about this many files, so that pushing the oldest out loses little at once. */
const FILES = 64;
/** Bytes of a file that may be copied where it could be linked: a save or a fork more often than that makes no more files. */
const MOST_COPIED = 2 ** 20;

export class BlockStore {
  readonly folder: string;
  readonly #options: StoreOptions;
  readonly #onLoss: (loss: Loss) => void;
  /** By group: most records of a file. */
  readonly #places: readonly number[];
  /** In order of creation. */
  readonly #files: BlockFile[] = [];
  readonly #current: (BlockFile | null)[];
  readonly #queue: Queued[] = [];
  #queuedBytes = 0;
  #diskBytes = 0;
  #nextSerial = 0;
  #nextFile = 0;
  #pumping: Promise<void> | null = null;

  /**
   * An empty store in an existing folder. `onLoss` is told of every record that is lost, within the call or the write
   * that lost it. Throws OUT_OF_BUDGET where the budget does not hold two records of every group.
   */
  constructor(options: StoreOptions, onLoss: (loss: Loss) => void) {
    const { recordBytes, budgetBytes } = options;
    const least = recordBytes.reduce((sum, bytes) => sum + FILE_HEAD_BYTES + 2 * bytes, 0);
    if (budgetBytes < least) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `A disk tier of ${budgetBytes} bytes is too small for its blocks; give it at least ${least}.`,
        { budgetBytes, least },
      );
    }
    this.folder = options.folder;
    this.#options = options;
    this.#onLoss = onLoss;
    // Not so small that heads take much of it, unless a few files are all that there is room for.
    const sixteenHeads = Math.min(16 * FILE_HEAD_BYTES, budgetBytes / (4 * recordBytes.length));
    const fileBytes = Math.max(budgetBytes / FILES, sixteenHeads);
    this.#places = recordBytes.map((bytes) => Math.max(1, Math.floor((fileBytes - FILE_HEAD_BYTES) / bytes)));
    this.#current = recordBytes.map(() => null);
  }

  usage(): StoreUsage {
    const { budgetBytes } = this.#options;
    return {
      files: this.#files.length,
      diskBytes: this.#diskBytes,
      budgetBytes,
      queuedBytes: this.#queuedBytes,
    };
  }

  /**
   * Adds a record and returns its serial; null where it could not be kept, which `onLoss` has been told. Pushes the
   * oldest files out where the budget wants it.
   */
  append(group: number, span: BlockSpan, meta: Uint8Array, payload: Uint8Array): number | null {
    const serial = this.#nextSerial++;
    const bytes = encodeRecord({ ...span, serial, meta, payload });
    const recordBytes = this.#options.recordBytes[group]!;
    if (bytes.length > recordBytes) {
      throw new MillraceError("INTERNAL", `A record of ${bytes.length} bytes in a place of ${recordBytes}.`);
    }
    let file: BlockFile;
    try {
      file = this.#fileFor(group);
    } catch (cause) {
      this.#onLoss({ group, serials: [serial], spans: [span], error: unwritten(this.folder, cause) });
      return null;
    }
    const queued: Queued = { file, place: file.serials.length, serial, bytes };
    file.serials.push(serial);
    file.spans.push(span.tokens, span.merged, span.first, span.last);
    file.bytes += recordBytes;
    this.#diskBytes += recordBytes;
    if (file.serials.length === this.#places[group]) this.#current[group] = null;
    file.writes++;
    if (this.#queuedBytes + bytes.length > this.#options.queueBytes) {
      return this.#writeNow(queued) ? serial : null;
    }
    this.#queue.push(queued);
    this.#queuedBytes += bytes.length;
    this.#pumping ??= this.#pump();
    return serial;
  }

  /** Serials of a group's records from `first` to `last`, both included, that are kept. */
  serials(group: number, first: number, last: number): number[] {
    const found: number[] = [];
    for (const file of this.#files) {
      if (file.group !== group || !(file.serials[0]! <= last) || !(file.serials.at(-1)! >= first)) continue;
      for (const serial of file.serials) {
        if (serial >= first && serial <= last && Number.isInteger(serial)) found.push(serial);
      }
    }
    return found;
  }

  /** Of a group's records that are kept, oldest first. */
  spans(group: number): BlockSpan[] {
    return this.#files
      .filter((file) => file.group === group)
      .flatMap((file) =>
        file.serials.flatMap((serial, i) => (Number.isInteger(serial) ? [spanAt(file, i)] : [])),
      );
  }

  /** Tokens of a group's records that are not written yet. */
  queuedTokens(group: number): number {
    const own = this.#queue.filter(({ file }) => file.group === group && !file.removed);
    return own.reduce((sum, { file, place }) => sum + spanAt(file, place).tokens, 0);
  }

  /** The group's next record after this one that is kept, or null. */
  next(group: number, serial: number): number | null {
    for (const file of this.#files) {
      if (file.group !== group || !(file.serials.at(-1)! > serial)) continue;
      const next = file.serials.find((each) => each > serial && Number.isInteger(each));
      if (next !== undefined) return next;
    }
    return null;
  }

  /** The group's last record before this one that is kept, or null. */
  previous(group: number, serial: number): number | null {
    for (let i = this.#files.length - 1; i >= 0; i--) {
      const file = this.#files[i]!;
      if (file.group !== group || !(file.serials[0]! < serial)) continue;
      const previous = file.serials.findLast((each) => each < serial && Number.isInteger(each));
      if (previous !== undefined) return previous;
    }
    return null;
  }

  /** True while the record is kept, written or not. */
  has(group: number, serial: number): boolean {
    return this.#find(group, serial) !== null;
  }

  /**
   * Reads records of a group, all at once. A record that cannot be read or whose bytes are not those that were
   * written comes back as null and counts as lost, which `onLoss` has then been told.
   */
  async read(group: number, serials: readonly number[]): Promise<(BlockRecord | null)[]> {
    return this.#readAll(group, serials, true);
  }

  /** As `read`, but without the payloads, which are neither read nor checked. */
  async readMetas(group: number, serials: readonly number[]): Promise<(BlockRecord | null)[]> {
    return this.#readAll(group, serials, false);
  }

  /** Resolves when everything that was added is written or lost. */
  async settle(): Promise<void> {
    while (this.#pumping) await this.#pumping;
  }

  /**
   * As `settle`, and the device has it. What somebody else has removed counts as lost. Throws WRITE_FAILED where the file
   * system refuses; nothing is lost by that.
   */
  async sync(): Promise<void> {
    await this.settle();
    for (const file of [...this.#files]) {
      if (file.removed) continue;
      let fd: number | null = null;
      try {
        fd = await openFile(file.path, "r+");
        await syncFile(fd);
      } catch (cause) {
        if (!isMissing(cause)) throw uncopied(this.folder, cause);
        this.#giveUp(file, unread(file.path, cause));
      } finally {
        if (fd !== null) closeSync(fd);
      }
    }
  }

  /**
   * Makes `folder` hold all records that there are now, as links to the same bytes where the file system has them,
   * else as copies. What is added here later is not there: a file that more goes to is copied while it is small, and else
   * gets no more. Throws as `sync`.
   */
  async copyTo(folder: string): Promise<void> {
    await this.sync();
    for (const [group, file] of this.#current.entries()) {
      if (file === null || file.bytes <= MOST_COPIED) continue;
      this.#current[group] = null;
      this.#close(file);
    }
    const paths = this.#files.map(({ path }) => path);
    const growing = new Set(this.#current.flatMap((file) => file?.path ?? []));
    await copyFiles(paths, folder, growing).catch((cause: unknown) => {
      throw uncopied(folder, cause);
    });
  }

  /** Ends writing once the queue is through; removes the folder where asked. Idempotent. */
  async dispose(remove: boolean): Promise<void> {
    await this.settle();
    for (const file of this.#files) this.#close(file);
    this.#current.fill(null);
    if (remove) rmSync(this.folder, { recursive: true, force: true });
  }

  /** Takes over the files of a folder; what it finds is whole. For `openStore`. */
  adopt(): FoundRecord[] {
    const found: FoundRecord[] = [];
    const names = listFiles(this.folder);
    const lastOf = new Map(names.map(({ group, name }) => [group, name]));
    for (const { name, group, number } of names) {
      this.#nextFile = Math.max(this.#nextFile, number + 1);
      const path = join(this.folder, name);
      const scanned = scanFile(path, {
        fingerprint: this.#options.fingerprint,
        group,
        recordBytes: this.#options.recordBytes[group],
        headBytes: this.#options.headBytes[group] ?? 0,
        whole: lastOf.get(group) === name,
      });
      const bytes = FILE_HEAD_BYTES + scanned.length * this.#options.recordBytes[group]!;
      const serials: number[] = [];
      const spans: number[] = [];
      for (const [place, record] of scanned.entries()) {
        // The last one of a file is whole.
        serials.push(record?.serial ?? hole(scanned.find((each, i) => i > place && each)!.serial));
        spans.push(record?.tokens ?? 0, record?.merged ?? 0, record?.first ?? 0, record?.last ?? 0);
      }
      this.#files.push({ path, group, serials, spans, bytes, fd: null, writes: 0, removed: false });
      this.#diskBytes += bytes;
      for (const record of scanned) if (record) found.push({ ...record, group });
    }
    for (const { serial } of found) this.#nextSerial = Math.max(this.#nextSerial, serial + 1);
    this.#makeRoom(0);
    return found.filter(({ group, serial }) => this.has(group, serial));
  }

  /** The file that the next record of `group` goes to, with room made for it. */
  #fileFor(group: number): BlockFile {
    const recordBytes = this.#options.recordBytes[group]!;
    this.#makeRoom(recordBytes + (this.#current[group] ? 0 : FILE_HEAD_BYTES));
    const current = this.#current[group];
    if (current) return current;
    const number = this.#nextFile++;
    const path = join(this.folder, fileName(group, number));
    const head: FileHead = {
      millrace: "tier",
      version: 1,
      fingerprint: this.#options.fingerprint,
      group,
      recordBytes,
    };
    const fd = this.#create(path);
    try {
      writeWholeSync(fd, encodeFileHead(head), 0);
    } catch (error) {
      closeSync(fd);
      rmSync(path, { force: true });
      throw error;
    }
    const file: BlockFile = {
      path,
      group,
      serials: [],
      spans: [],
      bytes: FILE_HEAD_BYTES,
      fd,
      writes: 0,
      removed: false,
    };
    this.#files.push(file);
    this.#diskBytes += FILE_HEAD_BYTES;
    this.#current[group] = file;
    return file;
  }

  /** Opens a new file, in a new folder where somebody has removed the store's. */
  #create(path: string): number {
    const make = () => openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_RDWR, 0o600);
    try {
      return make();
    } catch (cause) {
      if (!isMissing(cause)) throw cause;
      // Not those above it: where they are gone too, a disk may have been taken out.
      mkdirSync(this.folder, { mode: 0o700 });
      return make();
    }
  }

  /** Pushes files out, oldest first, until `bytes` more fit. */
  #makeRoom(bytes: number): void {
    while (this.#diskBytes + bytes > this.#options.budgetBytes) {
      const oldest = this.#files[0];
      if (!oldest) throw new MillraceError("INTERNAL", "No file is left to push out of the tier.");
      this.#giveUp(oldest, null);
      try {
        unlinkSync(oldest.path);
      } catch {
        // Somebody else has removed it: the bytes are free all the same.
      }
    }
  }

  /** Knows a file no more: all that it held is lost. */
  #giveUp(file: BlockFile, error: MillraceError | null): void {
    this.#files.splice(this.#files.indexOf(file), 1);
    file.removed = true;
    this.#diskBytes -= file.bytes;
    if (this.#current[file.group] === file) this.#current[file.group] = null;
    this.#close(file);
    const places = [...file.serials.keys()].filter((place) => Number.isInteger(file.serials[place]));
    if (places.length === 0) return;
    const serials = places.map((place) => file.serials[place]!);
    const spans = places.map((place) => spanAt(file, place));
    this.#onLoss({ group: file.group, serials, spans, error });
  }

  /** Writes the queue, one record after another. */
  async #pump(): Promise<void> {
    for (let next = this.#queue[0]; next; next = this.#queue[0]) {
      const { file, place, bytes } = next;
      let error: unknown = null;
      try {
        if (!file.removed) await writeWhole(file.fd!, bytes, this.#offsetOf(file, place));
      } catch (cause) {
        error = cause;
      }
      this.#queue.shift();
      this.#queuedBytes -= bytes.length;
      this.#written(next, error);
    }
    this.#pumping = null;
  }

  #writeNow(queued: Queued): boolean {
    const { file, place, bytes } = queued;
    let error: unknown = null;
    try {
      writeWholeSync(file.fd!, bytes, this.#offsetOf(file, place));
    } catch (cause) {
      error = cause;
    }
    this.#written(queued, error);
    return error === null;
  }

  #written({ file, serial }: Queued, cause: unknown): void {
    file.writes--;
    if (this.#current[file.group] !== file) this.#close(file);
    if (cause === null || file.removed) return;
    this.#forget(file, serial, unwritten(this.folder, cause));
  }

  /** The record's place stays empty; its token count as lost. */
  #forget(file: BlockFile, serial: number, error: MillraceError): void {
    const place = file.serials.indexOf(serial);
    if (place < 0) return;
    file.serials[place] = hole(serial);
    this.#onLoss({ group: file.group, serials: [serial], spans: [spanAt(file, place)], error });
  }

  #close(file: BlockFile): void {
    if (file.fd === null || file.writes > 0) return;
    closeSync(file.fd);
    file.fd = null;
  }

  async #readAll(group: number, serials: readonly number[], whole: boolean): Promise<(BlockRecord | null)[]> {
    const opened = new Map<BlockFile, number>();
    try {
      return await Promise.all(serials.map((serial) => this.#readOne(group, serial, whole, opened)));
    } finally {
      for (const fd of opened.values()) closeSync(fd);
    }
  }

  async #readOne(
    group: number,
    serial: number,
    whole: boolean,
    opened: Map<BlockFile, number>,
  ): Promise<BlockRecord | null> {
    const queued = this.#queue.find((each) => each.serial === serial && !each.file.removed);
    if (queued) return decodeRecord(queued.bytes, whole);
    const at = this.#find(group, serial);
    if (!at) return null;
    const { file, place } = at;
    try {
      // Opened at once: a question waits for it, and it takes less than handing it to another thread.
      const fd = opened.get(file) ?? openSync(file.path, "r");
      opened.set(file, fd);
      const bytes = new Uint8Array((whole ? this.#options.recordBytes : this.#options.headBytes)[group]!);
      const { bytesRead } = await readAt(fd, bytes, 0, bytes.length, this.#offsetOf(file, place));
      const record = decodeRecord(bytes.subarray(0, bytesRead), whole);
      if (record?.serial === serial) return record;
      this.#forget(file, serial, damaged(file.path, place));
    } catch (cause) {
      if (!file.removed) this.#forget(file, serial, unread(file.path, cause));
    }
    return null;
  }

  #find(group: number, serial: number): { file: BlockFile; place: number } | null {
    for (let i = this.#files.length - 1; i >= 0; i--) {
      const file = this.#files[i]!;
      if (file.group !== group || !(file.serials[0]! <= serial)) continue;
      const place = binarySearch(file.serials, serial);
      return place < 0 ? null : { file, place };
    }
    return null;
  }

  #offsetOf({ group }: BlockFile, place: number): number {
    return FILE_HEAD_BYTES + place * this.#options.recordBytes[group]!;
  }
}

/** A store with the records that are whole in a folder; new ones go to files of their own. */
export function openStore(
  options: StoreOptions,
  onLoss: (loss: Loss) => void,
): { readonly store: BlockStore; readonly found: readonly FoundRecord[] } {
  const store = new BlockStore(options, onLoss);
  return { store, found: store.adopt() };
}

/** What stands for a lost record among serials: no serial, and in order between its neighbours, in whatever file. */
const hole = (serial: number): number => serial - 0.5;

const spanAt = ({ spans }: BlockFile, place: number): BlockSpan => ({
  tokens: spans[4 * place]!,
  merged: spans[4 * place + 1]!,
  first: spans[4 * place + 2]!,
  last: spans[4 * place + 3]!,
});

/** Where `wanted` stands in an ascending list, -1 where it does not. */
function binarySearch(list: readonly number[], wanted: number): number {
  let low = 0;
  let high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! < wanted) low = middle + 1;
    else high = middle;
  }
  return list[low] === wanted ? low : -1;
}
