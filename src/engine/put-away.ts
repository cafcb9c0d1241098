/**
 * A cache that makes room for more urgent ones: its state in a temporary file that has no name (where the system allows)
 * and so cannot be left behind, until it is brought back to the last bit.
 */
import { randomUUID } from "node:crypto";
import { closeSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import type { CacheLayout } from "../cache/layout.js";
import type { KvPool } from "../cache/pool.js";
import { type CacheReport, SequenceCache } from "../cache/sequence.js";
import { badSnapshot, type SnapshotSource } from "../cache/snapshot.js";
import { MillraceError } from "../errors.js";

const CHUNK_BYTES = 2 ** 20;

export class PutAway {
  /** Of the cache when it was put away. */
  readonly report: CacheReport;
  /** Tokens that it held: see `SequenceCache.held`. */
  readonly held: number;
  readonly #maxIncoming: number;
  readonly #header: string;
  readonly #byteLength: number;
  readonly #pages: number;
  readonly #path: string;
  readonly #file: number;
  #checksum = 0;
  #discarded = false;

  /** Writes `cache`, which stays as it is. Throws WRITE_FAILED, leaving nothing behind. */
  constructor(cache: SequenceCache, folder: string = tmpdir()) {
    this.report = cache.report();
    this.held = cache.held;
    this.#maxIncoming = cache.maxIncoming();
    this.#pages = this.report.groups.reduce((sum, { pages }) => sum + pages, 0);
    const { header, byteLength, parts } = cache.openSnapshot();
    this.#header = header;
    this.#byteLength = byteLength;
    this.#path = join(folder, `millrace-${randomUUID()}`);
    try {
      this.#file = openSync(this.#path, "wx+", 0o600);
    } catch (cause) {
      throw writeFailed(this.#path, cause);
    }
    try {
      // From here on only this process knows the file; where that is not allowed, `discard` removes it.
      removeQuietly(this.#path);
      for (const part of parts) {
        for (let at = 0; at < part.length; ) at += writeSync(this.#file, part, at);
        this.#checksum = crc32(part, this.#checksum);
      }
    } catch (cause) {
      this.discard();
      throw writeFailed(this.#path, cause);
    }
  }

  /** Most tokens that it takes at once when it is back. */
  maxIncoming(): number {
    return this.#maxIncoming;
  }

  /**
   * The cache again, on pages of `pool`; then the file is gone. Throws BAD_FORMAT where it does not hold what was written,
   * OUT_OF_BUDGET where the pool has too few pages.
   */
  bringBack(pool: KvPool, layout: CacheLayout): SequenceCache {
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, this.#byteLength));
    let checksum = 0;
    for (let at = 0; at < this.#byteLength; at += chunk.length) {
      const part = chunk.subarray(0, Math.min(chunk.length, this.#byteLength - at));
      this.#read(part, at);
      checksum = crc32(part, checksum);
    }
    if (checksum !== this.#checksum) throw badSnapshot("its temporary file was changed");
    pool.makeRoom({ taken: this.#pages, returned: 0 });
    let at = 0;
    const byteLength = this.#byteLength;
    const source: SnapshotSource = {
      get left() {
        return byteLength - at;
      },
      read: (target) => {
        if (target.byteLength > byteLength - at) throw badSnapshot("its bytes end too early");
        this.#read(new Uint8Array(target.buffer, target.byteOffset, target.byteLength), at);
        at += target.byteLength;
      },
    };
    const cache = SequenceCache.restore(pool, layout, { header: this.#header, bytes: source });
    this.discard();
    return cache;
  }

  /** Forgets it. Idempotent. */
  discard(): void {
    if (this.#discarded) return;
    this.#discarded = true;
    closeSync(this.#file);
    removeQuietly(this.#path);
  }

  #read(target: Uint8Array, from: number): void {
    for (let at = 0; at < target.length; ) {
      const count = readSync(this.#file, target, at, target.length - at, from + at);
      if (count === 0) throw badSnapshot("its temporary file ends too early");
      at += count;
    }
  }
}

function removeQuietly(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // Some systems keep a file that is open; it is removed when it has been closed.
  }
}

function writeFailed(path: string, cause: unknown): MillraceError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const message = `${path}, where a cache was to be put away, cannot be written (${reason}). Make room there.`;
  return new MillraceError("WRITE_FAILED", message, { path, reason }, { cause });
}
