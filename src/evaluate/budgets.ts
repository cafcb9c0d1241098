/** Cache policies of a given size, so that all can be compared at the same number of tokens. */

import type { PolicyOfLane } from "../cache/contract.js";
import { duo } from "../cache/policies/duo.js";
import { full } from "../cache/policies/full.js";
import { razor } from "../cache/policies/razor.js";
import { type PolicySpec, parsePolicy } from "../cache/policies/resolve.js";
import type { ModelHeads } from "../cache/policies/split.js";
import { MillraceError } from "../errors.js";

/** A policy under the name that it has in tables. */
export interface NamedPolicy {
  readonly name: string;
  readonly policy: PolicySpec;
  /** Tokens that it was cut to; null where it was given with its size, or has none. */
  readonly budget: number | null;
}

const half = (tokens: number) => Math.floor(tokens / 2);
const SINKS = 4;
/** Least tokens that every policy can be cut to. */
export const LEAST = 16;

/** What policies are cut for, that keep everything in some heads. */
export interface Sizing {
  /** Tokens that these heads come to keep; null where that has no bound. */
  readonly of: number | null;
  /** Which heads retrieve, where that was ever found out. */
  readonly heads: ModelHeads;
}

/** What a policy keeps (on average over the heads) or, where it keeps everything, attends to. */
const SIZED: Readonly<Record<string, (tokens: number, sizing: Sizing) => PolicySpec>> = {
  window: (tokens) => ({ policy: "window", tokens }),
  sinks: (tokens) => ({ policy: "sinks", window: tokens - SINKS, sinks: SINKS }),
  h2o: (tokens) => ({ policy: "h2o", heavy: tokens - half(tokens), recent: half(tokens) }),
  keyformer: (tokens) => ({ policy: "keyformer", heavy: tokens - half(tokens), recent: half(tokens) }),
  snapkv: (tokens) => ({ policy: "snapkv", tokens }),
  kvmerger: (tokens) => ({ policy: "kvmerger", tokens }),
  lacache: (tokens) => ({ policy: "lacache", tokens }),
  // These keep everything, and attend to so much.
  tokenselect: (tokens) => ({
    policy: "tokenselect",
    init: SINKS,
    local: Math.floor(tokens / 4),
    tokens: tokens - Math.floor(tokens / 4) - SINKS,
  }),
  recycled: (tokens) => ({ policy: "recycled", tokens }),
  compensated: (tokens) => ({ policy: "compensated", window: tokens - SINKS - 1, sinks: SINKS }),
  // Thin keys on top of SnapKV, as in the paper: more tokens, in the bytes that so many have.
  think: (tokens) => ({ policy: "think", keep: THIN, of: { policy: "snapkv", tokens: thinly(tokens) } }),
  razor: (tokens, sizing) => ({ policy: "razor", window: razorWindow(tokens, sizing), sinks: SINKS }),
  duo: (tokens, sizing) => ({ policy: "duo", ...duoShares(tokens, sizing), sinks: SINKS }),
};

const THIN = 0.6;

/** How many tokens fit where so many do with whole keys: keys are half of what is kept. */
const thinly = (tokens: number): number => Math.floor(tokens / ((1 + THIN) / 2));

/** The window of the heads that do not retrieve, so that all heads together keep `tokens` tokens each. */
function razorWindow(tokens: number, { of, heads: { scores } }: Sizing): number {
  if (of === null || scores === null) {
    throw unsized("razor", tokens, of === null ? null : "head scores (millrace heads)", "razor:window=256");
  }
  const share = wholeShare(razor({ window: LEAST }, scores), scores.echo);
  const window = windowBeside(tokens, of, share) - 1;
  if (window >= 2) return window;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `razor cannot be cut to ${tokens} of ${of} tokens: the heads that retrieve alone are ${(100 * share).toFixed(0)} % of all.`,
    { tokens, of, share },
  );
}

/** Of `tokens`, heads that stream keep at least this share, so that they see what is near. */
const LEAST_RECENT = 1 / 8;

/** As many whole heads as leave a useful window to the others, and that window. */
function duoShares(tokens: number, { of, heads: { gates } }: Sizing): { keep: number; recent: number } {
  if (of === null || gates === null) {
    const missing = of === null ? null : "gates (millrace heads --method duo)";
    throw unsized("duo", tokens, missing, "duo:keep=0.5,recent=256");
  }
  const least = Math.max(LEAST, LEAST_RECENT * tokens);
  const lanes = gates.flat().length;
  for (let whole = lanes - 1; whole >= 0; whole--) {
    const keep = whole / lanes;
    const recent = windowBeside(tokens, of, wholeShare(duo({ keep }, gates), gates));
    if (recent >= least) return { keep, recent };
  }
  return { keep: 0, recent: tokens - SINKS };
}

/** Share of the heads that keep everything. */
function wholeShare(policyOf: PolicyOfLane, heads: readonly (readonly number[])[]): number {
  const lanes = heads.flatMap((row, layer) => row.map((_, head) => policyOf({ layer, head }, heads.length)));
  return lanes.filter(({ id }) => id === full().id).length / lanes.length;
}

/** Tokens beside the sinks for the heads that do not keep all `of` tokens; below 1 where nothing is left for them. */
function windowBeside(tokens: number, of: number, whole: number): number {
  return whole === 1 ? 0 : Math.floor((tokens - whole * of) / (1 - whole)) - SINKS;
}

function unsized(name: string, tokens: number, missing: string | null, example: string): MillraceError {
  const without = missing === null ? "a length of the stream" : `the model's ${missing}`;
  const message = `${name} cannot be cut to ${tokens} tokens without ${without}; give it a size, such as ${example}.`;
  return new MillraceError("INVALID_ARGUMENT", message, { tokens });
}

/**
 * The policies of a list such as "full,sinks,window:512,h2o:heavy=100,recent=60": those that stand there by name alone
 * are cut to keep so many tokens, once for each of `budgets`. One that keeps more than such a budget in some of its heads
 * alone is left out there, where `tellUnfit` is given. Throws INVALID_ARGUMENT as `parsePolicy`, and for a budget that
 * is too small.
 */
export function policiesOfSize(
  list: string,
  budgets: readonly number[],
  sizing: Sizing,
  tellUnfit?: (reason: MillraceError) => void,
): NamedPolicy[] {
  return splitPolicies(list).flatMap((name): NamedPolicy[] => {
    const sized = Object.hasOwn(SIZED, name) ? SIZED[name] : undefined;
    if (!sized) return [{ name, policy: parsePolicy(name), budget: null }];
    return budgets.flatMap((tokens) => {
      try {
        return [{ name, policy: sized(checked(tokens), sizing), budget: tokens }];
      } catch (error) {
        if (!tellUnfit || !(error instanceof MillraceError) || error.details.share === undefined) throw error;
        tellUnfit(error);
        return [];
      }
    });
  });
}

function checked(tokens: number): number {
  if (Number.isSafeInteger(tokens) && tokens >= LEAST) return tokens;
  const message = `A cache of ${tokens} tokens is too small to compare policies; expected ${LEAST} or more.`;
  throw new MillraceError("INVALID_ARGUMENT", message, { tokens });
}

/** A comma begins a new policy, unless an option of the one before follows: "sinks:window=8,sinks=4,full" are two. */
export function splitPolicies(list: string): string[] {
  if (list.trimStart().startsWith("{")) return [list.trim()];
  const parts: string[] = [];
  for (const part of list.split(",")) {
    const isOption = /^[^:]*=/.test(part);
    if (isOption && parts.length > 0) parts.push(`${parts.pop()},${part.trim()}`);
    else parts.push(part.trim());
  }
  return parts;
}
