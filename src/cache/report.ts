import type { Lane } from "./contract.js";
import type { LaneCounts } from "./table/counts.js";
import type { LaneTable } from "./table.js";

/** What became of the tokens of one lane group, and what those that are kept take. */
export interface GroupReport extends LaneCounts {
  readonly lanes: readonly Lane[];
  readonly policy: string;
  readonly pages: number;
  readonly bytes: number;
}

/** What became of every token that one sequence has seen. */
export interface CacheReport {
  /** Tokens of the stream so far. */
  readonly seen: number;
  /** seen - merged - demoted - dropped. */
  readonly kept: number;
  /** Tokens merged into others, in the tier below, and dropped, of the lane group that keeps least. */
  readonly merged: number;
  readonly demoted: number;
  readonly dropped: number;
  /** Bytes of the pages that this sequence holds, shared ones included, and of its tables. */
  readonly bytes: number;
  readonly groups: readonly GroupReport[];
}

/** The report of a sequence's tables, of which there is at least one. */
export function reportOf(tables: readonly LaneTable[], pageBytes: number): CacheReport {
  const groups = tables.map((table): GroupReport => {
    const { lanes, policy } = table.group;
    const pages = table.numPages;
    const bytes = pages * pageBytes + table.tableBytes;
    return { lanes, policy: policy.id, ...table.counts(), pages, bytes };
  });
  const { seen } = groups[0]!;
  const away = ({ merged, demoted, dropped }: GroupReport) => merged + demoted + dropped;
  const { merged, demoted, dropped } = groups.reduce((worst, group) =>
    away(group) > away(worst) ? group : worst,
  );
  const bytes = groups.reduce((sum, group) => sum + group.bytes, 0);
  return { seen, kept: seen - merged - demoted - dropped, merged, demoted, dropped, bytes, groups };
}
