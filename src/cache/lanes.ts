import { MillraceError } from "../errors.js";
import type { CachePolicy, PolicyOfLane } from "./contract.js";

/** A policy for each layer, in order. A layer beyond the list throws INVALID_ARGUMENT when the cache is laid out. */
export function perLayer(policies: readonly CachePolicy[]): PolicyOfLane {
  return ({ layer }) => policies[layer] ?? missing(`layer ${layer}`, `${policies.length} layers`);
}

/** A policy for each kv head of each layer, `[layer][head]`; throws as `perLayer`. */
export function perHead(policies: readonly (readonly CachePolicy[])[]): PolicyOfLane {
  return ({ layer, head }) => {
    const heads = policies[layer] ?? missing(`layer ${layer}`, `${policies.length} layers`);
    return heads[head] ?? missing(`kv head ${head} of layer ${layer}`, `${heads.length} heads`);
  };
}

function missing(what: string, given: string): never {
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `No cache policy for ${what}: policies were given for ${given}.`,
  );
}
