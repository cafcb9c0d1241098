/** What a session's cache takes, and what fits its budget; answered before anything is allocated. */
import type { CodecName } from "../../cache/codecs/contract.js";
import type { CacheGroup, CacheLayout } from "../../cache/layout.js";
import { pagesFor, planLayout, rowsFor, scoreBytes } from "../../cache/layout.js";
import { chooseAuto } from "../../cache/policies/auto.js";
import { type PolicySpec, resolvePolicy } from "../../cache/policies/resolve.js";
import { MillraceError } from "../../errors.js";
import type { KvLayer } from "../../tape/tape.js";
import { formatBytes } from "../bytes.js";
import type { CacheSpec } from "../policies.js";
import type { RecallShare } from "./recall.js";

export interface SessionFit {
  /** The hard limit on pages, page tables and attention mass: what was asked for, or what the policy needs. */
  readonly memoryBytes: number;
  /** Whole pages. */
  readonly poolBytes: number;
  /** Most tokens that the cache takes in all; Infinity where the policy lets go of some. */
  readonly capacity: number;
  /** Pages that one sequence may come to hold; null where it has no bound but the pool. */
  readonly pages: number | null;
  /** Bytes of one sequence's tables at their largest, and of its disk tier's part in memory. */
  readonly tableBytes: number;
}

/**
 * Splits a session's budget. Without one it gets what its policy needs, or what `context` tokens need where the policy
 * keeps everything. What a disk tier takes is part of it. Throws OUT_OF_BUDGET, with the numbers, where the policy needs more or not one page fits.
 */
export function fitSession(
  layout: CacheLayout,
  memoryBytes: number | null,
  context: number,
  recall: RecallShare = { pages: 0, bytes: 0 },
): SessionFit {
  const endless = pagesFor(layout, Number.POSITIVE_INFINITY) + recall.pages;
  if (Number.isFinite(endless)) {
    const tableBytes = tables(layout, (group) => rowsOf(group, layout.step)) + recall.bytes;
    const needs = endless * layout.pageBytes + tableBytes;
    const has = memoryBytes ?? needs;
    if (needs > has) throw tooSmall(layout, needs, has, endless);
    const poolBytes = wholePages(layout, has - tableBytes);
    return { memoryBytes: has, poolBytes, capacity: Number.POSITIVE_INFINITY, pages: endless, tableBytes };
  }
  const tablesOf = (pages: number) => tables(layout, ({ lanes }) => Math.floor(pages / lanes.length));
  const bytesOf = (pages: number) => pages * layout.pageBytes + tablesOf(pages);
  const has = memoryBytes ?? bytesOf(pagesFor(layout, context));
  const pages = largest(0, Math.floor(has / layout.pageBytes), (count) => bytesOf(count) <= has);
  const least = pagesFor(layout, 1);
  if (pages < least) throw tooSmall(layout, bytesOf(least), has, least);
  const capacity = largest(1, 2 ** 31 - 1, (tokens) => pagesFor(layout, tokens) <= pages);
  const poolBytes = pages * layout.pageBytes;
  return { memoryBytes: has, poolBytes, capacity, pages: null, tableBytes: tablesOf(pages) };
}

/**
 * The cache that a session gets where its caller names none: attention sinks beside the longest window that the model
 * was trained for and the budget holds.
 */
export function defaultCache(
  kv: readonly KvLayer[],
  codec: CodecName,
  step: number,
  memoryBytes: number | null,
  context: number,
  recall: { readonly pageTokens: number; share(layout: CacheLayout): RecallShare } | null = null,
): CacheSpec {
  const fits = (policy: PolicySpec) => {
    if (memoryBytes === null) return true;
    const cut = { kv, policy: resolvePolicy(policy), codec, step };
    const layout = planLayout(recall ? { ...cut, pageTokens: recall.pageTokens } : cut);
    try {
      fitSession(layout, memoryBytes, context, recall?.share(layout));
      return true;
    } catch {
      return false;
    }
  };
  // Where blocks are brought back, a quarter of what the model was trained for is left to them.
  const length = recall ? Math.ceil((3 * context) / 4) : context;
  return { codec, ...chooseAuto({ endless: true, context: length, hasHeads: false, fits }) };
}

/** The largest whole number in [low, high] for which `holds` does, given that it does up to some number; else `low`. */
function largest(low: number, high: number, holds: (value: number) => boolean): number {
  let [least, most] = [low, Math.max(low, high)];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (holds(middle)) least = middle;
    else most = middle - 1;
  }
  return least;
}

const wholePages = ({ pageBytes }: CacheLayout, bytes: number): number =>
  Math.floor(bytes / pageBytes) * pageBytes;

const rowsOf = (group: CacheGroup, step: number): number =>
  rowsFor(group, { tokens: Number.POSITIVE_INFINITY, step });

/** Upper bound of page tables with so many rows: they grow by doubling, and while they do the old one is there too. */
function tables(layout: CacheLayout, rowsOfGroup: (group: CacheGroup) => number): number {
  let bytes = 0;
  for (const group of layout.groups) {
    const { lanes, policy, thin } = group;
    const pageTokens = thin?.pageTokens ?? group.pageTokens;
    const rows = Math.max(4, 2 ** Math.ceil(Math.log2(Math.max(1, rowsOfGroup(group)))));
    const table = 64 + 4 * rows * (lanes.length + pageTokens + 1);
    const mass = policy.mass ? 4 * rows * lanes.length * pageTokens : 0;
    const counts =
      4 * rows * pageTokens * (Number(policy.merges ?? false) + Number(policy.chooses !== undefined));
    const thinned = thin ? 4 * (lanes.length * (thin.keyWidth + group.headWidth) + rows) : 0;
    bytes += Math.ceil(1.5 * (table + mass + counts + thinned));
  }
  const slotsOf = (group: CacheGroup) => rowsOfGroup(group) * (group.thin?.pageTokens ?? group.pageTokens);
  return bytes + scoreBytes(layout, slotsOf);
}

function tooSmall(layout: CacheLayout, needs: number, has: number, pages: number): MillraceError {
  const policies = [...new Set(layout.groups.map(({ policy }) => policy.id))].join(", ");
  return new MillraceError(
    "OUT_OF_BUDGET",
    `A session that keeps ${policies} needs ${formatBytes(needs)} (${pages} pages of ${formatBytes(layout.pageBytes)} ` +
      `and their tables); its memory is ${formatBytes(has)}. Give it more, or choose a policy or codec that takes less.`,
    { needs, has, pages, pageBytes: layout.pageBytes },
  );
}
