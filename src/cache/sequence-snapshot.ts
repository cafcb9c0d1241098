import type { CacheLayout } from "./layout.js";
import type { KvPool } from "./pool.js";
import {
  badSnapshot,
  type OpenSnapshot,
  parseHeader,
  SNAPSHOT_VERSION,
  type SnapshotHeader,
  SnapshotReader,
  type SnapshotSource,
} from "./snapshot.js";
import type { LaneTable } from "./table.js";
import { restoreTable, savedBytes, savedParts } from "./table-snapshot.js";

/** A sequence's tables, by group of the layout, and the least position of the next token. */
export interface SavedSequence {
  readonly tables: readonly LaneTable[];
  readonly nextPosition: number;
}

/** The whole state; see snapshot.ts. Checksums are the caller's. */
export function saveSequence(
  { tables, nextPosition }: SavedSequence,
  pool: KvPool,
  layout: CacheLayout,
): OpenSnapshot {
  const byteLength = tables.reduce((sum, table) => sum + savedBytes(table, pool), 0);
  const header: SnapshotHeader = {
    version: SNAPSHOT_VERSION,
    layout: layout.fingerprint,
    nextPosition,
    byteLength,
    groups: tables.map((table) => table.parts().state),
  };
  return { header: JSON.stringify(header), byteLength, parts: allParts(tables, pool) };
}

/**
 * Reads what `saveSequence` gave. Throws BAD_FORMAT where the snapshot is of another layout, incomplete or contradicts
 * itself, OUT_OF_BUDGET where the pool has too few pages; either way it holds none.
 */
export function restoreSequence(
  pool: KvPool,
  layout: CacheLayout,
  { header, bytes }: { readonly header: string; readonly bytes: Uint8Array | SnapshotSource },
): SavedSequence {
  const source = bytes instanceof Uint8Array ? new SnapshotReader(bytes) : bytes;
  const state = parseHeader(header);
  checkHeader(state, layout, source.left);
  const { nextPosition } = state;
  const tables: LaneTable[] = [];
  try {
    for (const [i, group] of layout.groups.entries()) {
      tables.push(restoreTable(pool, group, state.groups[i]!, source, nextPosition - 1));
    }
    if (source.left > 0) throw badSnapshot(`${source.left} bytes are left over`);
  } catch (error) {
    for (const table of tables) table.dispose();
    throw error;
  }
  return { tables, nextPosition };
}

function checkHeader(state: SnapshotHeader, layout: CacheLayout, left: number): void {
  if (state.layout !== layout.fingerprint) {
    throw badSnapshot(
      `it was saved with the cache layout "${state.layout}", this one is "${layout.fingerprint}"`,
    );
  }
  if (state.groups.length !== layout.groups.length || state.byteLength !== left) {
    throw badSnapshot(`it has ${left} bytes for ${state.groups.length} groups, not ${state.byteLength}`);
  }
  const seen = state.groups[0]!.seen;
  if (state.groups.some((group) => group.seen !== seen)) throw badSnapshot("its groups saw different tokens");
}

function* allParts(tables: readonly LaneTable[], pool: KvPool): Generator<Uint8Array> {
  for (const table of tables) yield* savedParts(table, pool);
}
