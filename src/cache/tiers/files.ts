/**
 * The bytes of a tier folder: numbered files that only ever grow, one series per lane group, each
 *   a head of 4096 bytes   JSON that says what the file is, zero-padded
 *   records                all of the same `recordBytes`, so that a damaged one hides no other
 * A record, little-endian:
 *   u32 magic   u32 tokens   u32 serial, low and high word   u32 metaBytes   u32 payloadBytes
 *   u32 crc of the meta      u32 crc of the payload          i32 first and last position
 *   u32 merged               u32 crc of the 44 bytes before
 * then at byte 64 the meta, then at a multiple of 64 the payload. Serials ascend over all series of a folder.
 */
import { crc32 } from "node:zlib";
import { MillraceError } from "../../errors.js";

/** What a file says of itself; a folder's files must all say what its opener expects. */
export interface FileHead {
  readonly millrace: "tier";
  readonly version: 1;
  /** Model, tokenizer, codec and layout that the bytes mean something to. */
  readonly fingerprint: string;
  readonly group: number;
  readonly recordBytes: number;
}

/** What a block holds: so many tokens, at original positions from `first` to `last`. */
export interface BlockSpan {
  readonly tokens: number;
  /** Further tokens, which were merged into these. */
  readonly merged: number;
  readonly first: number;
  readonly last: number;
}

/** One block of tokens as it lies on disk. */
export interface BlockRecord extends BlockSpan {
  readonly serial: number;
  /** What an index needs; small. */
  readonly meta: Uint8Array;
  /** Keys and values. */
  readonly payload: Uint8Array;
}

export const FILE_HEAD_BYTES = 4096;
const RECORD_HEAD_BYTES = 64;
const CHECKED_BYTES = 44;
const MAGIC = 0x3142544d; // "MTB1"

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;

/** Bytes of a record of at most these sizes. */
export const recordBytesFor = (metaBytes: number, payloadBytes: number): number =>
  RECORD_HEAD_BYTES + align(metaBytes) + align(payloadBytes);

/** Bytes of a record up to its payload. */
export const headBytesFor = (metaBytes: number): number => RECORD_HEAD_BYTES + align(metaBytes);

export function encodeRecord({
  serial,
  tokens,
  merged,
  first,
  last,
  meta,
  payload,
}: BlockRecord): Uint8Array {
  const bytes = new Uint8Array(recordBytesFor(meta.length, payload.length));
  const words = new DataView(bytes.buffer);
  const head = [
    MAGIC,
    tokens,
    serial >>> 0,
    Math.floor(serial / 2 ** 32),
    meta.length,
    payload.length,
    crc32(meta),
    crc32(payload),
    first,
    last,
    merged,
  ];
  for (const [i, word] of head.entries()) words.setUint32(4 * i, word, true);
  words.setUint32(CHECKED_BYTES, crc32(bytes.subarray(0, CHECKED_BYTES)), true);
  bytes.set(meta, RECORD_HEAD_BYTES);
  bytes.set(payload, RECORD_HEAD_BYTES + align(meta.length));
  return bytes;
}

/**
 * The record at the start of `bytes`, as views of them; null where any of it is torn or damaged. Without `whole` the
 * payload is neither read nor checked and comes back empty, and `bytes` may end where it would begin.
 */
export function decodeRecord(bytes: Uint8Array, whole: boolean): BlockRecord | null {
  if (bytes.length < RECORD_HEAD_BYTES) return null;
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (i: number) => words.getUint32(4 * i, true);
  if (word(0) !== MAGIC || words.getUint32(CHECKED_BYTES, true) !== crc32(bytes.subarray(0, CHECKED_BYTES))) {
    return null;
  }
  const [metaBytes, payloadBytes] = [word(4), word(5)];
  const payloadAt = RECORD_HEAD_BYTES + align(metaBytes);
  if (bytes.length < (whole ? payloadAt + payloadBytes : RECORD_HEAD_BYTES + metaBytes)) return null;
  const meta = bytes.subarray(RECORD_HEAD_BYTES, RECORD_HEAD_BYTES + metaBytes);
  if (crc32(meta) !== word(6)) return null;
  const payload = whole ? bytes.subarray(payloadAt, payloadAt + payloadBytes) : new Uint8Array();
  if (whole && crc32(payload) !== word(7)) return null;
  return {
    serial: word(2) + word(3) * 2 ** 32,
    tokens: word(1),
    merged: word(10),
    first: word(8) | 0,
    last: word(9) | 0,
    meta,
    payload,
  };
}

export function encodeFileHead(head: FileHead): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(head));
  if (text.length > FILE_HEAD_BYTES) {
    const message = `A fingerprint of ${text.length} bytes does not fit a file's head.`;
    throw new MillraceError("INTERNAL", message);
  }
  const bytes = new Uint8Array(FILE_HEAD_BYTES);
  bytes.set(text);
  return bytes;
}

/** Null where the bytes are no whole head of this version. */
export function decodeFileHead(bytes: Uint8Array): FileHead | null {
  const end = bytes.indexOf(0);
  if (bytes.length < FILE_HEAD_BYTES || end < 0) return null;
  try {
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))) as Partial<FileHead>;
    const whole =
      head.millrace === "tier" &&
      head.version === 1 &&
      typeof head.fingerprint === "string" &&
      Number.isSafeInteger(head.group) &&
      Number.isSafeInteger(head.recordBytes);
    return whole ? (head as FileHead) : null;
  } catch {
    return null;
  }
}
