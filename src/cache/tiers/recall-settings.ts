/** What a recall may be told, and what it then takes of memory and of the disk. */
import type { Tape } from "../../tape/tape.js";
import type { CacheGroup, CacheLayout } from "../layout.js";
import { metaBytes } from "./blocks.js";
import { headBytesFor, recordBytesFor } from "./files.js";
import { blockBytes } from "./summary.js";
import { StreamTerms } from "./terms.js";

/** What a block is found by: its keys against the question's queries, its words against the question's, or both. */
export type RecallBy = "keys" | "tokens" | "both";

export interface RecallSettings {
  /** Hard limit on what lies on disk. */
  readonly diskBytes: number;
  /** Hard limit on what is kept in memory to find blocks by; past it, old blocks are found more coarsely. */
  readonly summaryBytes: number;
  /** Hard limit on blocks that wait in memory to be written. */
  readonly queueBytes: number;
  /** Most tokens that are recalled at once, in whole blocks. */
  readonly tokens: number;
  readonly by: RecallBy;
  /** Vectors that stand for the keys of a block, per lane. */
  readonly vectors: number;
  /** Blocks that come along with each chosen one: those that follow it in the stream. */
  readonly following: number;
}

/** The groups whose dropped tokens later queries could still have seen; null for the others. */
export function groupsThatRecall(tape: Tape, layout: CacheLayout): (CacheGroup | null)[] {
  return layout.groups.map((group) =>
    group.lanes.every(({ layer }) => tape.kv[layer]!.window === null) ? group : null,
  );
}

/** Pages that recalled blocks take of the pool, at most. */
export function recallPages(tape: Tape, layout: CacheLayout, tokens: number): number {
  return groupsThatRecall(tape, layout).reduce(
    (sum, group) => sum + (group ? Math.floor(tokens / group.pageTokens) * group.lanes.length : 0),
    0,
  );
}

/** Bytes on disk of a block of every group. */
export function recallBlockBytes(
  tape: Tape,
  layout: CacheLayout,
  settings: Pick<RecallSettings, "by" | "vectors">,
): number {
  return recordSizes(tape, layout, settings).reduce((sum, { record }) => sum + record, 0);
}

/**
 * Memory that a tier takes outside the pool, at most: summaries, counts of terms, what waits to be
 * written, and blocks in the making.
 */
export function recallBytes(tape: Tape, layout: CacheLayout, settings: RecallSettings): number {
  const drafts = groupsThatRecall(tape, layout).reduce(
    (sum, group) => sum + (group ? 2 * blockBytes(group) * group.lanes.length : 0),
    0,
  );
  const terms = settings.by === "keys" ? 0 : StreamTerms.bytes;
  return settings.summaryBytes + settings.queueBytes + drafts + terms;
}

/** By group: bytes of a record, and of what stands in it before keys and values. */
export function recordSizes(
  tape: Tape,
  layout: CacheLayout,
  { by, vectors }: Pick<RecallSettings, "by" | "vectors">,
): { readonly record: number; readonly head: number }[] {
  return groupsThatRecall(tape, layout).map((group) => {
    if (!group) return { record: 0, head: 0 };
    const meta = metaBytes(group, by === "tokens" ? 0 : vectors);
    return { record: recordBytesFor(meta, blockBytes(group) * group.lanes.length), head: headBytesFor(meta) };
  });
}
