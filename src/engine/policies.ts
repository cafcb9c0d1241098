/**
 * The cache as callers describe it: plain objects, because they travel to the engine's worker, where
 * `resolvePolicy` makes the policies themselves from them.
 */
import { CODEC_NAMES, type CodecName } from "../cache/codecs/contract.js";
import type { CompensatedOptions } from "../cache/policies/compensated.js";
import type { DuoOptions } from "../cache/policies/duo.js";
import type { H2oOptions } from "../cache/policies/h2o.js";
import type { KeyformerOptions } from "../cache/policies/keyformer.js";
import type { KvMergerOptions } from "../cache/policies/kvmerger.js";
import type { LaCacheOptions } from "../cache/policies/lacache.js";
import type { RazorOptions } from "../cache/policies/razor.js";
import type { RecycledOptions } from "../cache/policies/recycled.js";
import {
  type LanePolicySpec,
  type PolicySpec,
  resolvePolicy,
  type ThinkSpec,
} from "../cache/policies/resolve.js";
import type { SinksOptions } from "../cache/policies/sinks.js";
import type { SnapKvOptions } from "../cache/policies/snapkv.js";
import type { TokenSelectOptions } from "../cache/policies/tokenselect.js";
import { invalid, oneOf, refuseUnknown } from "./options.js";

/** Which keys and values are kept, and how they are written. */
export interface CacheSpec {
  readonly policy: PolicySpec;
  readonly codec: CodecName;
  /** Where the policy was chosen by `auto`: why, in one sentence. */
  readonly why?: string;
}

/** Keeps every token; a request that cannot fit is refused before it runs. The default. */
export function full(): LanePolicySpec {
  return { policy: "full" };
}

/**
 * Chooses when the model is opened: everything where the budget holds it; else `razor` where head scores are known and it
 * fits, else `sinks` with the longest window that does. `ModelInfo.cache` says what was chosen, and why.
 */
export function auto(): PolicySpec {
  return { policy: "auto" };
}

/** Keeps the last `tokens` tokens of each sequence, so that streams of any length run in bounded memory. */
export function window(options: { readonly tokens: number }): LanePolicySpec {
  return checked({ policy: "window", ...options });
}

/**
 * Keeps the first `sinks` tokens (default 4) and the last `window`, at contiguous positions: for streams without end.
 * sinks + window should lie within the length that the model was trained on.
 */
export function sinks(options: SinksOptions): LanePolicySpec {
  return checked({ policy: "sinks", ...options });
}

/**
 * Keeps the newest tokens and those older ones that received the most attention. For streams longer than the model was
 * trained on choose `positions: "contiguous"`, here as in `snapkv`, `keyformer` and `kvmerger`: what is kept closes ranks.
 */
export function h2o(options: H2oOptions): LanePolicySpec {
  return checked({ policy: "h2o", ...options });
}

/** Keeps the newest tokens, and those older ones (with their neighbours) that they look at. */
export function snapkv(options: SnapKvOptions): LanePolicySpec {
  return checked({ policy: "snapkv", ...options });
}

/** As `h2o`, by attention with Gumbel noise and a rising temperature, which allows for the tokens already gone. */
export function keyformer(options: KeyformerOptions): LanePolicySpec {
  return checked({ policy: "keyformer", ...options });
}

/** Merges neighbouring tokens that are most alike, instead of letting any go. */
export function kvmerger(options: KvMergerOptions): LanePolicySpec {
  return checked({ policy: "kvmerger", ...options });
}

/** Keeps the first tokens, the last ones, and one token that stands for all between. */
export function compensated(options: CompensatedOptions): LanePolicySpec {
  return checked({ policy: "compensated", ...options });
}

/** Keeps everything, and attends in most steps only to what the last full step attended to most. */
export function recycled(options: RecycledOptions): LanePolicySpec {
  return checked({ policy: "recycled", ...options });
}

/** Keeps everything, and attends to the first tokens, the newest, and those that the heads of a layer vote for. */
export function tokenselect(options: TokenSelectOptions): LanePolicySpec {
  return checked({ policy: "tokenselect", ...options });
}

/**
 * Wraps another policy (default `full()`): of keys older than the newest `recent` tokens only a share `keep` of the
 * elements is stored, those that queries look at most. Not around policies at contiguous positions.
 */
export function think(options: Omit<ThinkSpec, "policy"> = {}): LanePolicySpec {
  return checked({ policy: "think", ...options });
}

/** `full` for the heads that retrieve, `compensated` for all others. Which these are is measured once per model. */
export function razor(options: RazorOptions): PolicySpec {
  return checked({ policy: "razor", ...options });
}

/**
 * `full` for the share `keep` of the heads (default a half) whose gates are highest, the first `sinks` tokens (64) and
 * the newest `recent` (256) for all others. The gates are trained once per model, by `trainGates`.
 */
export function duo(options: DuoOptions = {}): PolicySpec {
  return checked({ policy: "duo", ...options });
}

/** Thins old tokens out in the shape of a ladder, at contiguous positions: each layer keeps other ones. */
export function lacache(options: LaCacheOptions): PolicySpec {
  return checked({ policy: "lacache", ...options });
}

/** One policy per layer, in order; `open` throws INVALID_ARGUMENT where the list is too short for the model. */
export function perLayer(layers: readonly LanePolicySpec[]): PolicySpec {
  return checked({ policy: "perLayer", layers });
}

/** One policy per kv head, `heads[layer][head]`; `open` throws as for `perLayer`. */
export function perHead(heads: readonly (readonly LanePolicySpec[])[]): PolicySpec {
  return checked({ policy: "perHead", heads });
}

/** What `open` was given for `cache`, with defaults: everything kept, as f16. Throws INVALID_ARGUMENT. */
export function cacheSpec(options: Partial<CacheSpec> = {}): CacheSpec {
  refuseUnknown("cache", options, ["policy", "codec", "why"]);
  return {
    policy: checked(options.policy ?? full()),
    codec: oneOf("cache.codec", options.codec, CODEC_NAMES) ?? "f16",
  };
}

/** `spec`, once a policy could be made of it. Throws INVALID_ARGUMENT as the policy does. */
function checked<S extends PolicySpec>(spec: S): S {
  if (typeof spec !== "object") throw invalid("cache.policy", spec, "full(), window({ tokens }) or the like");
  resolvePolicy(spec);
  return spec;
}
