/** Rows that pass between tables as they are, for prefixes that several sequences begin with. */
import { MillraceError } from "../../errors.js";
import type { TableRows } from "./rows.js";
import { STREAM } from "./segment-rows.js";

/**
 * Enters rows on `pages` [rows, lanes] that hold `tokens` tokens, at positions from `first` on; the pages are held once
 * more. Throws INTERNAL where a row of the stream has a free slot, OUT_OF_BUDGET where the backend refuses.
 */
export function adoptRows(rows: TableRows, pages: Int32Array, tokens: number, first: number): void {
  const { lanes, pageTokens } = rows;
  const added = Math.ceil(tokens / pageTokens);
  if (rows.segments[STREAM]!.room > 0 || rows.length !== first || added * lanes !== pages.length) {
    throw new MillraceError(
      "INTERNAL",
      `A table cannot take over ${tokens} tokens on ${pages.length} pages here.`,
    );
  }
  rows.reserve(rows.numRows + added);
  rows.pages.replace(rows.numRows, pages);
  for (let at = 0; at < tokens; at += pageTokens) {
    const row = rows.enterRow(STREAM);
    const end = Math.min(tokens, at + pageTokens);
    for (let i = at; i < end; i++) rows.put(row, first + i);
  }
  rows.publish();
}

/** Pages [rows, lanes] of the tokens at positions `from` to `end`, where a row begins at `from`; a copy. */
export function pagesOf(rows: TableRows, from: number, end: number): Int32Array {
  checkStraight(rows, from);
  return rows.pages.of(from / rows.pageTokens, Math.ceil(end / rows.pageTokens)).slice();
}

/** Holds `pages` [rows, lanes], which have the same contents, instead of those from position `from` on. */
export function exchangePages(rows: TableRows, from: number, pages: Int32Array): void {
  checkStraight(rows, from);
  const row = from / rows.pageTokens;
  rows.pages.replace(row, pages, row + pages.length / rows.lanes);
}

/** Throws INTERNAL unless a row begins with position `from`, as all do where tokens came one by one and none went. */
function checkStraight(rows: TableRows, from: number): void {
  if (from % rows.pageTokens === 0 && rows.positions[from] === from) return;
  throw new MillraceError("INTERNAL", `No row of the table begins with position ${from}.`, { from });
}
