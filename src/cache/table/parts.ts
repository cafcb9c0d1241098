import type { CacheGroup } from "../layout.js";
import type { KvPool } from "../pool.js";
import type { TableState } from "../snapshot.js";
import type { TokenCounts } from "./counts.js";
import { TableRows } from "./rows.js";

/** All that a table is. */
export interface TableParts {
  readonly state: TableState;
  /** By slot, -1 for none. */
  readonly positions: Int32Array;
  /** By lane and slot; null where the policy asks for none. */
  readonly mass: Float32Array | null;
  /** By slot: tokens that it stands for; null where the policy never merges. */
  readonly counts: Int32Array | null;
  /** By slot: how much further on its key is stored than its position; null where plans do not settle. */
  readonly moved: Int32Array | null;
  /** Elements of thin keys [lanes, keyWidth], and sums of squares of queries [lanes, D]; null where the policy never thins. */
  readonly elements: Int32Array | null;
  readonly queries: Float32Array | null;
  /** What queries chose last, see KvChoice: by slot, where the one stands that chose, and that query; null where none choose. */
  readonly chosen: Int32Array | null;
  readonly chosenAt: Int32Array | null;
  readonly chooser: Float32Array | null;
  /** [rows, lanes] */
  readonly pages: Int32Array;
}

/** The state of a table and views of its memory, valid until it changes. */
export function partsOf(rows: TableRows, counts: TokenCounts): TableParts {
  const { view, numRows, segments } = rows;
  const slots = numRows * rows.pageTokens;
  return {
    state: {
      rows: numRows,
      segments: [...rows.segmentOf.subarray(0, numRows)],
      open: segments.map(({ open }) => [...open]),
      offsets: [segments[0]!.offset, segments[1]!.offset],
      ...counts.saved,
    },
    positions: rows.positions.subarray(0, slots),
    mass: view.received?.values() ?? null,
    counts: rows.counts?.subarray(0, slots) ?? null,
    moved: rows.moved?.subarray(0, slots) ?? null,
    elements: view.thin?.elements() ?? null,
    queries: view.measured?.values() ?? null,
    chosen: view.choice?.slots.words() ?? null,
    chosenAt: view.choice ? Int32Array.of(view.choice.chosenAt) : null,
    chooser: view.choice?.query() ?? null,
    pages: rows.pages.of(0, numRows),
  };
}

/** Rows of these parts on fresh pages, which the caller has to fill. The parts are trusted. Throws OUT_OF_BUDGET. */
export function rowsFrom(pool: KvPool, group: CacheGroup, parts: Omit<TableParts, "pages">): TableRows {
  const { mass, counts, moved, elements, queries, chosen, chosenAt, chooser } = parts;
  const rows = TableRows.restore(pool, group, parts.state, parts.positions);
  const { view } = rows;
  if (mass) view.received?.values().set(mass);
  if (moved) rows.moved?.set(moved);
  if (counts) {
    rows.counts?.set(counts);
    view.counted?.values().set(Float32Array.from(counts, Math.log));
  }
  if (elements) view.thin?.elements().set(elements);
  if (queries) view.measured?.values().set(queries);
  if (view.choice && chosen && chosenAt && chooser) {
    view.choice.slots.words().set(chosen);
    view.choice.chosenAt = chosenAt[0]!;
    view.choice.query().set(chooser);
  }
  return rows;
}
