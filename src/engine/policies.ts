/**
 * Cache policies as callers name them: plain objects, because they travel to the engine's worker, which makes the
 * policy itself from them. One line per policy of src/cache/policies.
 */
import type { CodecName } from "../cache/codecs/contract.js";
import type { CachePolicy } from "../cache/contract.js";
import { full as createFull } from "../cache/policies/full.js";
import { window as createWindow } from "../cache/policies/window.js";
import { invalid, oneOf, refuseUnknown } from "./options.js";

export type PolicySpec = { readonly policy: "full" } | { readonly policy: "window"; readonly tokens: number };

export interface CacheSpec {
  readonly policy: PolicySpec;
  readonly codec: CodecName;
}

/** Keeps every token; a request that cannot fit is refused before it runs. The default. */
export function full(): PolicySpec {
  return { policy: "full" };
}

/**
 * Keeps the last `tokens` tokens of each sequence, so that streams of any length run in bounded memory.
 * Throws INVALID_ARGUMENT unless `tokens` is a whole number of at least 1.
 */
export function window(options: { readonly tokens: number }): PolicySpec {
  refuseUnknown("window", options, ["tokens"]);
  createWindow(options);
  return { policy: "window", tokens: options.tokens };
}

export function createPolicy(spec: PolicySpec): CachePolicy {
  switch (spec.policy) {
    case "full":
      return createFull();
    case "window":
      return createWindow(spec);
    default:
      return spec satisfies never;
  }
}

const POLICIES: readonly PolicySpec["policy"][] = ["full", "window"];
const CODECS: readonly CodecName[] = ["f32", "f16", "int8"];

/** What `open` was given for `cache`, with defaults: everything kept, as f16. */
export function cacheSpec(options: Partial<CacheSpec> = {}): CacheSpec {
  refuseUnknown("cache", options, ["policy", "codec"]);
  const { policy = full() } = options;
  if (typeof policy !== "object" || policy === null || !POLICIES.includes(policy.policy)) {
    throw invalid("cache.policy", policy, "full() or window({ tokens })");
  }
  createPolicy(policy);
  return { policy, codec: oneOf("cache.codec", options.codec, CODECS) ?? "f16" };
}
