/**
 * The raw state of a sequence's cache, as a header (JSON) and bytes: per group of the layout, in order,
 *   positions  int32 [rows, pageTokens]
 *   mass       f32 [lanes, rows x pageTokens], where the group's policy asks for it
 *   counts     int32 [rows, pageTokens], tokens that slots stand for, if the policy merges
 *   moved      int32 [rows, pageTokens], how much further on keys are stored than their positions, if the policy settles
 *   elements   int32 [lanes, keyWidth], those that are stored of thin keys, if the policy thins
 *   queries    f32 [lanes, D], sums of squares of queries by which they are chosen, if the policy thins
 *   chosen     int32 [rows, pageTokens], bit 31: chosen by the last query that chose, if queries do
 *   chosenAt   int32, position of that query, -1 for none, if queries choose
 *   chooser    f32 [lanes, D], that query as it is compared, if queries choose
 *   pages      [rows, lanes] of pageBytes each
 * all little-endian. Restored slots are those that were saved, so what follows is the same to the last bit.
 */
import { createRequire } from "node:module";
import type * as zod from "zod";
import { MillraceError } from "../errors.js";

export const SNAPSHOT_VERSION = 1;

function makeSchema() {
  // Loaded at the first restore: it takes more memory than all of the engine's own code, which none but those who
  // restore should pay.
  const { z } = createRequire(import.meta.url)("zod") as typeof zod;
  const count = z.int().min(0);
  const rows = z.array(count);
  const tableState = z.strictObject({
    rows: count,
    /** By row: 0 sinks, 1 stream, 2 stream with thin keys. */
    segments: z.array(z.int().min(0).max(2)),
    /** By segment: rows with free slots, the next to be filled last; the third where the policy thins. */
    open: z.array(rows).min(2).max(3),
    offsets: z.tuple([z.int(), z.int()]),
    seen: count,
    merged: count,
    demoted: count,
    dropped: count,
    expired: count,
    newestLost: z.int().min(-1),
    exactFrom: count,
  });
  return z.strictObject({
    version: z.literal(SNAPSHOT_VERSION),
    /** CacheLayout.fingerprint. */
    layout: z.string(),
    nextPosition: count,
    byteLength: count,
    groups: z.array(tableState),
  });
}

let schema: ReturnType<typeof makeSchema> | null = null;

export type SnapshotHeader = zod.infer<ReturnType<typeof makeSchema>>;
export type TableState = SnapshotHeader["groups"][number];

export interface Snapshot {
  readonly header: string;
  readonly bytes: Uint8Array;
}

/** A snapshot whose bytes have not been gathered: each part is valid until the next is asked for. */
export interface OpenSnapshot {
  readonly header: string;
  readonly byteLength: number;
  /** To be walked once, before the cache changes. */
  readonly parts: Iterable<Uint8Array>;
}

/** Throws BAD_FORMAT for anything that is not a header of this version. */
export function parseHeader(header: string): SnapshotHeader {
  let json: unknown;
  try {
    json = JSON.parse(header);
  } catch (cause) {
    throw badSnapshot("its header is not JSON", { cause });
  }
  schema ??= makeSchema();
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw badSnapshot(`its header's ${issue?.path.join(".") || "form"} is wrong (${issue?.message})`);
}

export function badSnapshot(what: string, options?: ErrorOptions): MillraceError {
  return new MillraceError(
    "BAD_FORMAT",
    `This saved cache cannot be restored: ${what}. Start the sequence again from its tokens.`,
    { what },
    options,
  );
}

/** Where a snapshot's bytes come from, one after another. */
export interface SnapshotSource {
  /** Bytes that have not been read. */
  readonly left: number;
  /** Copies the next `target.byteLength` bytes into `target`. Throws BAD_FORMAT past the end. */
  read(target: Int32Array | Float32Array | Uint8Array): void;
}

/** A source in memory. */
export class SnapshotReader implements SnapshotSource {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  read(target: Int32Array | Float32Array | Uint8Array): void {
    if (target.byteLength > this.left) throw badSnapshot("its bytes end too early");
    const part = this.#bytes.subarray(this.#at, this.#at + target.byteLength);
    new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(part);
    this.#at += target.byteLength;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }
}
