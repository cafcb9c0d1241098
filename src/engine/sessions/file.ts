/**
 * A saved session in one file, all numbers little-endian:
 *   head      36 bytes: "MILLSESS", version u32, bytes of the manifest u32, bytes of the body u64, CRC-32 of the manifest,
 *             CRC-32 of the body, CRC-32 of the head before it
 *   manifest  JSON, UTF-8
 *   body      sections one after another; the manifest says how long each is
 * The head is written last, over zeros, so that a file without its end has no head either. Every byte is covered by a
 * checksum, and nothing is read before all of them hold.
 */
import { readSync } from "node:fs";
import { crc32 } from "node:zlib";
import type { SnapshotSource } from "../../cache/snapshot.js";
import { MillraceError } from "../../errors.js";
import {
  type FileWriter,
  type OpenFile,
  openFile,
  readFully,
  removeAbandoned,
  writeAtomically,
} from "../../formats/file.js";

/** 2: the manifest names an adapter. Files of version 1, which had none, are read too. */
export const SESSION_VERSION = 2;
const OLDEST_VERSION = 1;

const MAGIC = "MILLSESS";
const HEAD_BYTES = 36;
/** Bytes that are gathered for one write, and read at once for checksums. */
const CHUNK_BYTES = 2 ** 20;
/** No manifest comes near; what claims more is not read. */
const MOST_MANIFEST_BYTES = 2 ** 28;

/** What stands in a session file. */
export interface SessionFile {
  readonly manifest: string;
  readonly body: SnapshotSource;
  close(): Promise<void>;
}

/**
 * Writes a session file in place of `path`, or not at all. The parts of the body are walked once, and other things run in
 * between: whoever gives them keeps them as they are. `check` is asked before the file takes its name, and may throw.
 * Returns the file's bytes.
 * Throws WRITE_FAILED where the file system refuses.
 */
export async function writeSessionFile(
  path: string,
  manifest: string,
  body: Iterable<Uint8Array>,
  check: () => void,
): Promise<number> {
  await removeAbandoned(path);
  let total = 0;
  await writeAtomically(path, async (file) => {
    const text = new TextEncoder().encode(manifest);
    await file.write(new Uint8Array(HEAD_BYTES));
    await file.write(text);
    const crc = await writeParts(file, body);
    total = file.position;
    const head = new DataView(new ArrayBuffer(HEAD_BYTES));
    for (let i = 0; i < MAGIC.length; i++) head.setUint8(i, MAGIC.charCodeAt(i));
    head.setUint32(8, SESSION_VERSION, true);
    head.setUint32(12, text.length, true);
    head.setBigUint64(16, BigInt(total - HEAD_BYTES - text.length), true);
    head.setUint32(24, crc32(text), true);
    head.setUint32(28, crc, true);
    head.setUint32(32, crc32(new Uint8Array(head.buffer, 0, 32)), true);
    await file.writeAt(0, new Uint8Array(head.buffer));
    check();
  });
  return total;
}

/** Gathers parts into chunks, since memory may move between writes. Returns the checksum of all. */
async function writeParts(file: FileWriter, parts: Iterable<Uint8Array>): Promise<number> {
  const chunk = new Uint8Array(CHUNK_BYTES);
  let filled = 0;
  let crc = 0;
  const flush = async () => {
    const bytes = chunk.subarray(0, filled);
    crc = crc32(bytes, crc);
    await file.write(bytes);
    filled = 0;
  };
  for (const part of parts) {
    let rest = part;
    if (rest.length > CHUNK_BYTES - filled) {
      await flush();
      // A part larger than a chunk is copied first: it would not outlive the first write.
      if (rest.length > CHUNK_BYTES) rest = part.slice();
    }
    while (rest.length > 0) {
      if (filled === CHUNK_BYTES) await flush();
      const count = Math.min(rest.length, CHUNK_BYTES - filled);
      chunk.set(rest.subarray(0, count), filled);
      filled += count;
      rest = rest.subarray(count);
    }
  }
  await flush();
  return crc;
}

/**
 * Opens a session file and checks all of it. Throws FILE_NOT_FOUND, BAD_FORMAT for what is no session file or damaged,
 * UNSUPPORTED_FORMAT for another version of the format.
 */
export async function openSessionFile(path: string): Promise<SessionFile> {
  const file = await openFile(path);
  try {
    const head = await readHead(file);
    const manifest = new Uint8Array(head.manifestBytes);
    await readFully(file, HEAD_BYTES, manifest);
    if (crc32(manifest) !== head.manifestCrc) throw damaged(path, "its manifest's checksum is wrong");
    const start = HEAD_BYTES + head.manifestBytes;
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, head.bodyBytes));
    let crc = 0;
    for (let at = 0; at < head.bodyBytes; at += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, head.bodyBytes - at));
      await readFully(file, start + at, part);
      crc = crc32(part, crc);
    }
    if (crc !== head.bodyCrc) throw damaged(path, "its body's checksum is wrong");
    return {
      manifest: new TextDecoder().decode(manifest),
      body: new FileSource(file, start, start + head.bodyBytes),
      close: () => file.handle.close(),
    };
  } catch (error) {
    await file.handle.close();
    throw error;
  }
}

interface Head {
  readonly manifestBytes: number;
  readonly bodyBytes: number;
  readonly manifestCrc: number;
  readonly bodyCrc: number;
}

async function readHead(file: OpenFile): Promise<Head> {
  const { path, size } = file;
  if (size < HEAD_BYTES) throw damaged(path, `it has ${size} bytes, less than a head`);
  const bytes = new Uint8Array(HEAD_BYTES);
  await readFully(file, 0, bytes);
  const head = new DataView(bytes.buffer);
  if (String.fromCharCode(...bytes.subarray(0, 8)) !== MAGIC) {
    throw damaged(path, "it does not begin as a session file does");
  }
  if (head.getUint32(32, true) !== crc32(bytes.subarray(0, 32))) {
    throw damaged(path, "its head's checksum is wrong");
  }
  const version = head.getUint32(8, true);
  if (version < OLDEST_VERSION || version > SESSION_VERSION) {
    throw new MillraceError(
      "UNSUPPORTED_FORMAT",
      `${path} is a session file of version ${version}; this version of Millrace reads ${OLDEST_VERSION} to ` +
        `${SESSION_VERSION}. Open it with the version of Millrace that wrote it, or start anew.`,
      { path, got: version, expected: SESSION_VERSION },
    );
  }
  const manifestBytes = head.getUint32(12, true);
  const bodyBytes = Number(head.getBigUint64(16, true));
  if (manifestBytes > MOST_MANIFEST_BYTES || HEAD_BYTES + manifestBytes + bodyBytes !== size) {
    throw damaged(
      path,
      `it has ${size} bytes, not the ${HEAD_BYTES + manifestBytes + bodyBytes} that it claims`,
    );
  }
  return {
    manifestBytes,
    bodyBytes,
    manifestCrc: head.getUint32(24, true),
    bodyCrc: head.getUint32(28, true),
  };
}

/** BAD_FORMAT that says what is wrong with a session file. */
export function damaged(path: string, what: string, options?: ErrorOptions): MillraceError {
  return new MillraceError(
    "BAD_FORMAT",
    `${path} cannot be restored: ${what}. It is damaged or no session file; take an older one, or start anew.`,
    { path, what },
    options,
  );
}

/** Reads on where it stands, at once: nothing else runs in between. Small parts come out of one chunk. */
class FileSource implements SnapshotSource {
  readonly #file: OpenFile;
  #at: number;
  readonly #end: number;
  /** What was read ahead: from `#used` on, bytes of the file from `#at` on. */
  #chunk = new Uint8Array();
  #used = 0;

  constructor(file: OpenFile, start: number, end: number) {
    this.#file = file;
    this.#at = start;
    this.#end = end;
  }

  get left(): number {
    return this.#end - this.#at;
  }

  read(target: Int32Array | Float32Array | Uint8Array): void {
    const into = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
    if (into.length > this.left) throw damaged(this.#file.path, "its body ends too early");
    for (let done = 0; done < into.length; ) {
      if (this.#used === this.#chunk.length) this.#readAhead();
      const part = this.#chunk.subarray(this.#used, this.#used + into.length - done);
      into.set(part, done);
      done += part.length;
      this.#used += part.length;
      this.#at += part.length;
    }
  }

  #readAhead(): void {
    const chunk =
      this.#chunk.buffer.byteLength > 0 ? new Uint8Array(this.#chunk.buffer) : new Uint8Array(CHUNK_BYTES);
    const count = readSync(this.#file.handle.fd, chunk, 0, Math.min(chunk.length, this.left), this.#at);
    if (count === 0) throw damaged(this.#file.path, "it was cut short while it was read");
    this.#chunk = chunk.subarray(0, count);
    this.#used = 0;
  }
}
