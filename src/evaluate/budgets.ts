/** Cache policies of a given size, so that all can be compared at the same number of tokens. */
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

/** What a policy keeps or, where it keeps everything, attends to. */
const SIZED: Readonly<Record<string, (tokens: number) => PolicySpec>> = {
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
};

/** Least tokens that every policy can be cut to. */
const LEAST = 16;

/**
 * The policies of a list such as "full,sinks,window:512,h2o:heavy=100,recent=60": those that stand there by name alone
 * are cut to keep so many tokens, once for each of `budgets`. Throws INVALID_ARGUMENT as `parsePolicy`, and for a budget
 * that is too small.
 */
export function policiesOfSize(list: string, budgets: readonly number[]): NamedPolicy[] {
  return splitPolicies(list).flatMap((name): NamedPolicy[] => {
    const sized = Object.hasOwn(SIZED, name) ? SIZED[name] : undefined;
    if (!sized) return [{ name, policy: parsePolicy(name), budget: null }];
    return budgets.map((tokens) => ({ name, policy: sized(checked(tokens)), budget: tokens }));
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
