import type { Rotations } from "./rotations.js";
import type { LaneTable } from "./table.js";

/**
 * What stands below one sequence's cache: tokens that plans drop go down there instead of away, and some may be lent
 * back to be attended again. `SequenceCache.demoteTo` puts it in place; tiers/recall.ts is one.
 */
export interface LowerTier {
  /** Whether dropped tokens of this group go down. The same for the life of the tier. */
  takes(group: number): boolean;
  /**
   * Takes over the tokens that the table's staged plan drops; their keys and values stand in their slots until this
   * returns. Throws nothing: what it loses later it tells by `SequenceCache.lose`.
   */
  take(group: number, table: LaneTable): void;
  /** All tokens at this position and after are forgotten. None of them has ever been taken. */
  rewound(to: number): void;
  /** Tokens that are lent to a group now; they lie between its sinks and its stream. */
  lent(group: number): number;
  /** Writes how far the lent tokens are moved in this step, so that the last comes just before position `start`. */
  place(group: number, start: number, rotations: Rotations): void;
}
