/** Whose prompts share what they begin with alike. */
import { createHash } from "node:crypto";

/** Prompts of one key share prefixes, or those of all who ask. */
export type SharePrefixes = "key" | "all";

/**
 * The scope of a request's prefixes, for the engine: whose it is, where keys do not share, and its `prompt_cache_key` where
 * it has one. A digest, since it may be written to disk with the prefixes.
 */
export function prefixScope(
  { sharePrefixes }: { readonly sharePrefixes: SharePrefixes },
  owner: string,
  { prompt_cache_key: key }: { readonly prompt_cache_key?: string | null | undefined },
): { prefixScope?: string } {
  const parts = [sharePrefixes === "key" ? owner : null, key ?? null];
  if (parts.every((part) => part === null)) return {};
  return { prefixScope: createHash("sha256").update(JSON.stringify(parts)).digest("hex") };
}
