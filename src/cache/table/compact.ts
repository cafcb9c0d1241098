import { NONE } from "./order.js";
import type { TableRows } from "./rows.js";
import type { SegmentRows } from "./segment-rows.js";

/**
 * Gives rows back while the segment has two rows' worth of holes beyond what the next tokens will fill: the tokens
 * of the emptiest row move into holes of the others, fullest first. Not while one of these rows is shared: to fill
 * the holes of the rest could send the next tokens to a row that must be copied, for which no page was counted.
 */
export function compact(rows: TableRows, segment: SegmentRows, incoming: number): void {
  const { pageTokens } = segment;
  while (segment.room - incoming >= 2 * pageTokens) {
    if (segment.open.some((row) => rows.pages.isShared(row))) return;
    const targets = [...segment.open].sort((a, b) => rows.used[b]! - rows.used[a]!);
    const source = targets.pop()!;
    for (let i = 0; i < rows.pageTokens; i++) {
      const from = source * rows.pageTokens + i;
      if (rows.positions[from] === NONE) continue;
      while (rows.used[targets[0]!] === pageTokens) targets.shift();
      rows.move(from, targets[0]!);
    }
    rows.removeEmptied();
  }
}
