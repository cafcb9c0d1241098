import { choiceScratch } from "../backends/choice-scratch.js";
import type { KvGroup, KvLayout } from "../backends/contract.js";
import { MillraceError } from "../errors.js";
import type { KvLayer, RopeRef } from "../tape/tape.js";
import { type CodecName, GROUP } from "./codecs/contract.js";
import { codecs } from "./codecs/index.js";
import type { CachePolicy, Demand, Lane, PolicyOfLane } from "./contract.js";
import { visible } from "./policies/visible.js";

/** Lanes that share a page table: same policy (and what it is per), codec, head width and sliding window. */
export interface CacheGroup extends KvGroup {
  readonly policy: CachePolicy;
  /** By lane: what its keys are rotated by, null where they are not. */
  readonly ropes: readonly (RopeRef | null)[];
  /** Query heads of each lane. */
  readonly queryHeads: number;
  /** Rows whose keys are stored in part, where the policy thins: elements of a key, and tokens of a page. */
  readonly thin: { readonly keyWidth: number; readonly pageTokens: number } | null;
}

/** How a model's cache is cut. Fixed for the life of a program; shared by all its sequences. */
export interface CacheLayout extends KvLayout {
  readonly groups: readonly CacheGroup[];
  /** Most tokens that one step may bring to one sequence. */
  readonly step: number;
  /** Says all that saved pages depend on, in one line. */
  readonly fingerprint: string;
}

export interface LayoutOptions {
  /** Tape.kv of the model. */
  readonly kv: readonly KvLayer[];
  readonly policy: CachePolicy | PolicyOfLane;
  readonly codec: CodecName | ((lane: Lane) => CodecName);
  /** Most tokens that one step may bring to one sequence. */
  readonly step: number;
  /**
   * Tokens of a page of the widest group, a multiple of 16. Default: 64, less where a policy holds little; where one
   * thins, what wastes least of its thin pages.
   */
  readonly pageTokens?: number;
}

const DEFAULT_PAGE_TOKENS = 64;
/** Largest page that is looked at where pages of thin keys are to waste little, and tokens of the sequence that counts. */
const MOST_PAGE_TOKENS = 128;
const LONG = 16384;
/** A bounded lane is cut into at least this many pages where pages can be made that small. */
const MIN_PAGES = 4;

/** Groups lanes and sizes pages. Throws INVALID_ARGUMENT for page sizes that are none. */
export function planLayout(options: LayoutOptions): CacheLayout {
  const { step, pageTokens = defaultPageTokens(options) } = options;
  if (!Number.isSafeInteger(step) || step < 1) {
    throw new MillraceError("INVALID_ARGUMENT", `A step of ${step} tokens; at least 1 is wanted.`, { step });
  }
  if (!Number.isSafeInteger(pageTokens) || pageTokens < GROUP || pageTokens % GROUP !== 0) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `pageTokens is ${pageTokens}; a multiple of ${GROUP} is wanted.`,
      { pageTokens },
    );
  }
  const { pageBytes, groups } = cut(groupLanes(options), pageTokens);
  return { pageBytes, groups, step, fingerprint: fingerprintOf(pageBytes, groups) };
}

/** Pages of the groups where those of the widest have so many tokens. */
function cut(groups: readonly Unsized[], pageTokens: number): Pick<CacheLayout, "pageBytes" | "groups"> {
  const groupBytes = groups.map(({ codec, headWidth }) => codecs[codec].groupBytes(headWidth));
  const pageBytes = Math.max(...groupBytes) * (pageTokens / GROUP);
  const tokensOf = (bytes: number) => Math.floor(pageBytes / bytes) * GROUP;
  const sized = groups.map((group, i): CacheGroup => {
    const { codec, headWidth, policy } = group;
    const keyWidth = policy.thins?.width(headWidth);
    const thin = keyWidth === undefined ? null : codecs[codec].groupBytes(headWidth, keyWidth);
    return {
      ...group,
      pageTokens: tokensOf(groupBytes[i]!),
      thin: keyWidth === undefined || thin === null ? null : { keyWidth, pageTokens: tokensOf(thin) },
    };
  });
  return { pageBytes, groups: sized };
}

/** Bytes of keys and values of one token in all lanes. */
export function bytesPerToken(kv: readonly KvLayer[], codec: CodecName): number {
  const { groupBytes } = codecs[codec];
  return kv.reduce((sum, { numKvHeads, headWidth }) => sum + (numKvHeads * groupBytes(headWidth)) / GROUP, 0);
}

/** Most pages that a sequence of `tokens` tokens (Infinity: endless) ever holds; copies of pages shared by forks are not counted. */
export function pagesFor(layout: CacheLayout, tokens: number): number {
  let pages = 0;
  for (const group of layout.groups)
    pages += group.lanes.length * rowsFor(group, { tokens, step: layout.step });
  return pages;
}

/** Most rows that a group's page table ever has under this demand. */
export function rowsFor({ policy, pageTokens, thin }: CacheGroup, demand: Demand): number {
  const held = policy.capacity(demand);
  const sinks = Math.min(policy.sinks ?? 0, held);
  const others = policy.settles === undefined ? held - sinks : Math.min(policy.settles, held);
  const rows = Math.ceil(sinks / pageTokens);
  if (!thin || !policy.thins) return rows + Math.ceil(others / pageTokens);
  const { dense, recent } = policy.thins;
  const thinTokens = Math.max(0, others - recent);
  return rows + Math.ceil(Math.min(others, dense) / pageTokens) + Math.ceil(thinTokens / thin.pageTokens);
}

/**
 * Most bytes that a backend needs for what the queries of one step score, where they choose, in one sequence whose
 * tables have at most `slotsOf` slots. Layers follow each other in the same memory.
 */
export function scoreBytes(layout: CacheLayout, slotsOf: (group: CacheGroup) => number): number {
  const byLayer = new Map<number, number>();
  for (const group of layout.groups) {
    const { policy, lanes, queryHeads } = group;
    if (!policy.chooses) continue;
    const { layer } = lanes[0]!;
    const tokens = Math.min(layout.step, policy.maxIncoming?.(0) ?? layout.step);
    const slots = slotsOf(group);
    const { length } = choiceScratch({ lanes: lanes.length, queryHeads, tokens, slots, positions: slots });
    byLayer.set(layer, (byLayer.get(layer) ?? 0) + 4 * length);
  }
  return Math.max(0, ...byLayer.values());
}

type Unsized = Omit<CacheGroup, "pageTokens" | "thin">;

function groupLanes({ kv, policy, codec }: LayoutOptions): Unsized[] {
  const groups = new Map<string, Unsized & { lanes: Lane[]; ropes: (RopeRef | null)[] }>();
  for (const { layer, numKvHeads, numHeads = numKvHeads, headWidth, window, rope = null } of kv) {
    for (let head = 0; head < numKvHeads; head++) {
      const lane: Lane = { layer, head };
      const inner = typeof policy === "function" ? policy(lane, kv.length) : policy;
      const own = window === null ? inner : visible(window, inner);
      const codecName = typeof codec === "function" ? codec(lane) : codec;
      const byLayer = own.per === "layer" || own.chooses !== undefined;
      const scope = own.per === "head" ? `${layer}.${head}` : byLayer ? layer : "";
      const queryHeads = numHeads / numKvHeads;
      const key = `${own.id} ${codecName} ${headWidth} ${scope}`;
      const group = groups.get(key);
      if (group) {
        group.lanes.push(lane);
        group.ropes.push(rope);
        continue;
      }
      const common = {
        codec: codecName,
        headWidth,
        policy: own,
        queryHeads,
        chooses: own.chooses !== undefined,
      };
      groups.set(key, { ...common, lanes: [lane], ropes: [rope] });
    }
  }
  return [...groups.values()];
}

function defaultPageTokens(options: LayoutOptions): number {
  let least = Number.POSITIVE_INFINITY;
  const endless: Demand = { tokens: Number.POSITIVE_INFINITY, step: options.step };
  const groups = groupLanes(options);
  for (const { policy } of groups) least = Math.min(least, policy.capacity(endless));
  let pageTokens = DEFAULT_PAGE_TOKENS;
  while (pageTokens > GROUP && pageTokens * MIN_PAGES > least) pageTokens /= 2;
  return groups.some(({ policy }) => policy.thins) ? thriftiest(groups, options.step) : pageTokens;
}

/** The page size with which a long sequence takes the fewest bytes: pages hold whole groups of 16 tokens. */
function thriftiest(groups: readonly Unsized[], step: number): number {
  let [best, least] = [GROUP, Number.POSITIVE_INFINITY];
  for (let pageTokens = GROUP; pageTokens <= MOST_PAGE_TOKENS; pageTokens += GROUP) {
    const sized = cut(groups, pageTokens);
    const bytes = pagesFor({ ...sized, step, fingerprint: "" }, LONG) * sized.pageBytes;
    if (bytes < least) [best, least] = [pageTokens, bytes];
  }
  return best;
}

function fingerprintOf(pageBytes: number, groups: readonly CacheGroup[]): string {
  const parts = groups.map(({ codec, headWidth, pageTokens, thin, policy, lanes }) => {
    const names = lanes.map(({ layer, head }) => `${layer}.${head}`).join(" ");
    const sizes = thin ? `${pageTokens} ${thin.keyWidth}/${thin.pageTokens}` : pageTokens;
    return `${codec} ${headWidth} ${sizes} ${policy.id} [${names}]`;
  });
  return `${pageBytes}: ${parts.join("; ")}`;
}
