import type { MergeStep } from "./merge.js";
import type { TableRows } from "./rows.js";
import { STREAM, THIN } from "./segment-rows.js";

/** Pages that what is staged will take from the pool and give back to it. */
export interface PageNeed {
  readonly taken: number;
  readonly returned: number;
}

/** The same in rows; `fresh` are those that the step adds to the table, some of them on pages that it gives back. */
export interface RowNeed extends PageNeed {
  readonly fresh: number;
}

/** How many of a step's tokens go to the sinks, and to the stream. */
export type Incoming = readonly [number, number];

/**
 * Rows for `incoming` tokens where those in the slots `thinning`, oldest first, become thin: fresh ones, and copies of
 * shared ones that tokens would be written to.
 */
export function rowsToStore(
  rows: TableRows,
  merges: readonly MergeStep[],
  thinning: readonly number[],
  incoming: Incoming,
): RowNeed {
  const copied = new Set<number>();
  for (const { into } of merges) {
    const row = rows.rowOf(into);
    if (rows.pages.isShared(row)) copied.add(row);
  }
  const leaving = countByRow(rows, thinning);
  const usedOf = (row: number) => rows.used[row]! - (leaving.get(row) ?? 0);
  /** Rows that tokens take beyond the holes of open ones, last first; adds those to `copied` that are shared. */
  const freshFor = (count: number, open: readonly number[], pageTokens: number): number => {
    let left = count;
    for (let at = open.length - 1; at >= 0 && left > 0; at--) {
      const row = open[at]!;
      const used = usedOf(row);
      if (used === 0) continue;
      if (rows.pages.isShared(row)) copied.add(row);
      left -= pageTokens - used;
    }
    return Math.ceil(Math.max(0, left) / pageTokens);
  };
  let fresh = 0;
  for (const [i, count] of incoming.entries()) {
    const { open, pageTokens } = rows.segments[i]!;
    const opened = i === STREAM ? [...leaving.keys()].filter((row) => rows.used[row] === pageTokens) : [];
    fresh += freshFor(count, [...open, ...opened], pageTokens);
  }
  const thin = rows.segments[THIN];
  const thinRows = thin ? freshFor(thinning.length, thin.open, thin.pageTokens) : 0;
  // Rows that tokens leave come back only after these have found their place, and then serve the incoming ones.
  const left = [...leaving.keys()].filter((row) => usedOf(row) === 0 && !rows.pages.isShared(row)).length;
  let returned = 0;
  for (const row of rows.emptied) if (!rows.pages.isShared(row)) returned++;
  const taken = thinRows + Math.max(0, fresh - left) + copied.size;
  return { fresh: fresh + thinRows, taken, returned };
}

/** How many of the slots each row has; rows in the order in which they first come. */
function countByRow(rows: TableRows, slots: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const slot of slots) {
    const row = rows.rowOf(slot);
    counts.set(row, (counts.get(row) ?? 0) + 1);
  }
  return counts;
}
