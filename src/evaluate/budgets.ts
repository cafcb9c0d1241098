/** Cache policies of a given size, so that all can be compared at the same number of tokens. */
import { full } from "../cache/policies/full.js";
import { type HeadScores, razor } from "../cache/policies/razor.js";
import { type PolicySpec, parsePolicy } from "../cache/policies/resolve.js";
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
const LEAST = 16;

/** What policies are cut for, that keep everything in some heads. */
export interface Sizing {
  /** Tokens that these heads come to keep; null where that has no bound. */
  readonly of: number | null;
  /** Which heads retrieve; null where that was never measured. */
  readonly heads: HeadScores | null;
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
  razor: (tokens, sizing) => ({ policy: "razor", window: razorWindow(tokens, sizing), sinks: SINKS }),
};

/** The window of the heads that do not retrieve, so that all heads together keep `tokens` tokens each. */
function razorWindow(tokens: number, { of, heads }: Sizing): number {
  if (of === null || heads === null) {
    const missing = of === null ? "a length of the stream" : "the model's head scores (millrace heads)";
    const message = `razor cannot be cut to ${tokens} tokens without ${missing}; give it a size, such as razor:window=256.`;
    throw new MillraceError("INVALID_ARGUMENT", message, { tokens });
  }
  const policyOf = razor({ window: LEAST }, heads);
  const lanes = heads.echo.flatMap((row, layer) =>
    row.map((_, head) => policyOf({ layer, head }, heads.echo.length)),
  );
  const share = lanes.filter(({ id }) => id === full().id).length / lanes.length;
  const window = Math.floor((tokens - share * of) / (1 - share)) - SINKS - 1;
  if (window >= 2) return window;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `razor cannot be cut to ${tokens} of ${of} tokens: the heads that retrieve alone are ${(100 * share).toFixed(0)} % of all.`,
    { tokens, of, share },
  );
}

/**
 * The policies of a list such as "full,sinks,window:512,h2o:heavy=100,recent=60": those that stand there by name alone
 * are cut to keep so many tokens, once for each of `budgets`. Throws INVALID_ARGUMENT as `parsePolicy`, and for a budget
 * that is too small.
 */
export function policiesOfSize(list: string, budgets: readonly number[], sizing: Sizing): NamedPolicy[] {
  return splitPolicies(list).flatMap((name): NamedPolicy[] => {
    const sized = Object.hasOwn(SIZED, name) ? SIZED[name] : undefined;
    if (!sized) return [{ name, policy: parsePolicy(name), budget: null }];
    return budgets.map((tokens) => ({ name, policy: sized(checked(tokens), sizing), budget: tokens }));
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
