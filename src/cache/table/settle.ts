import { MillraceError } from "../../errors.js";
import { KeyTurner } from "../turn.js";
import type { Incoming, RowNeed } from "./page-need.js";
import { placeOf } from "./place.js";
import type { TableRows } from "./rows.js";
import { SINKS, STREAM } from "./segment-rows.js";

/** Throws INTERNAL where the tokens that stay cannot all be settled. */
export function checkSettle(rows: TableRows): void {
  const { policy } = rows.group;
  const room = policy.sinks ?? 0;
  if (rows.moved && rows.length <= room) return;
  throw new MillraceError(
    "INTERNAL",
    `Policy ${policy.id} planned to settle ${rows.length} tokens; it must declare "settles", and as "sinks" ` +
      `room for them, which is ${room}.`,
    { tokens: rows.length, room },
  );
}

/** Rows for `incoming` tokens where all that stays goes over into the first segment: any of its pages may be written to. */
export function rowsToSettle(rows: TableRows, incoming: Incoming): RowNeed {
  let [returned, left, copied, room] = [0, 0, 0, -rows.segments[STREAM]!.held];
  for (let row = 0; row < rows.numRows; row++) {
    const shared = rows.pages.isShared(row);
    if (rows.used[row] === 0) returned += shared ? 0 : 1;
    else if (rows.segmentOf[row] === STREAM) left += shared ? 0 : 1;
    else {
      copied += shared ? 1 : 0;
      room += rows.pageTokens - rows.used[row]!;
    }
  }
  const added = Math.ceil(Math.max(0, -room) / rows.pageTokens);
  const fresh = Math.ceil((incoming[SINKS] + incoming[STREAM]) / rows.pageTokens);
  // Rows that tokens leave come back only after these have found their place, and then serve the incoming ones.
  const taken = copied + added + Math.max(0, fresh - left);
  return { fresh: added + fresh, taken, returned };
}

/**
 * Brings all tokens into the first segment, one position after another up to `nextPosition` - 1. How far that segment
 * is moved as a whole is chosen so that as many settled keys as can be stay as they are: a key is written anew only
 * when tokens between it and most others go, so at most as often as there are older tokens when it is settled, however
 * long the stream.
 */
export function settleTokens(rows: TableRows, nextPosition: number): void {
  const settled = rows.segments[SINKS]!;
  const first = nextPosition - rows.length;
  settled.offset = commonOffset(rows, first);
  for (const slot of [...rows.order.fromOldest()]) {
    if (rows.segmentAt(slot) === SINKS) continue;
    const row = rows.writableRow(SINKS);
    rows.publish();
    rows.move(slot, row);
  }
  const turner = new KeyTurner(rows.group);
  let position = first;
  for (const slot of rows.order.fromOldest()) {
    const by = position++ - settled.offset - storedAt(rows, slot);
    if (by === 0) continue;
    rows.pages.unshare(rows.rowOf(slot));
    for (let lane = 0; lane < rows.lanes; lane++) {
      const { page, slot: at } = placeOf(rows, slot, lane);
      turner.turn(lane, page, at, by);
    }
    rows.moved![slot]! += by;
  }
  rows.removeEmptied();
}

/** The offset under which most settled tokens stand right when the oldest token comes to stand at `first`. */
function commonOffset(rows: TableRows, first: number): number {
  const votes = new Map<number, number>();
  let position = first;
  for (const slot of rows.order.fromOldest()) {
    const offset = position++ - storedAt(rows, slot);
    if (rows.segmentAt(slot) === SINKS) votes.set(offset, (votes.get(offset) ?? 0) + 1);
  }
  let [common, most] = [0, 0];
  for (const [offset, count] of votes) if (count > most) [common, most] = [offset, count];
  return common;
}

/** Position at which a slot's key is stored. */
const storedAt = ({ positions, moved }: TableRows, slot: number): number => positions[slot]! + moved![slot]!;
