import { MillraceError } from "../../errors.js";
import type { CachePolicy, PolicyOfLane } from "../contract.js";
import { perHead, perLayer } from "../lanes.js";
import { type CompensatedOptions, compensated } from "./compensated.js";
import { type DuoOptions, duo } from "./duo.js";
import { full } from "./full.js";
import { type H2oOptions, h2o } from "./h2o.js";
import { type KeyformerOptions, keyformer } from "./keyformer.js";
import { type KvMergerOptions, kvmerger } from "./kvmerger.js";
import { type LaCacheOptions, lacache } from "./lacache.js";
import { type RazorOptions, razor } from "./razor.js";
import { type RecycledOptions, recycled } from "./recycled.js";
import { type SinksOptions, sinks } from "./sinks.js";
import { type SnapKvOptions, snapkv } from "./snapkv.js";
import { type ModelHeads, UNKNOWN_HEADS } from "./split.js";
import { type ThinkOptions, think } from "./think.js";
import { type TokenSelectOptions, tokenselect } from "./tokenselect.js";
import { window } from "./window.js";

/** One policy for a lane, as plain data: what files hold and messages carry. */
export type LanePolicySpec =
  | { readonly policy: "full" }
  | { readonly policy: "window"; readonly tokens: number }
  | ({ readonly policy: "sinks" } & SinksOptions)
  | ({ readonly policy: "h2o" } & H2oOptions)
  | ({ readonly policy: "snapkv" } & SnapKvOptions)
  | ({ readonly policy: "keyformer" } & KeyformerOptions)
  | ({ readonly policy: "kvmerger" } & KvMergerOptions)
  | ({ readonly policy: "compensated" } & CompensatedOptions)
  | ({ readonly policy: "recycled" } & RecycledOptions)
  | ({ readonly policy: "tokenselect" } & TokenSelectOptions)
  | ThinkSpec;

/** A policy around another; default: around "full". */
export interface ThinkSpec extends ThinkOptions {
  readonly policy: "think";
  readonly of?: LanePolicySpec;
}

/** Policies of a whole model. */
export type PolicySpec =
  | LanePolicySpec
  /** Chosen for the model and the budget when it is opened: see auto.ts. */
  | { readonly policy: "auto" }
  | ({ readonly policy: "razor" } & RazorOptions)
  | ({ readonly policy: "duo" } & DuoOptions)
  | ({ readonly policy: "lacache" } & LaCacheOptions)
  | { readonly policy: "perLayer"; readonly layers: readonly LanePolicySpec[] }
  | { readonly policy: "perHead"; readonly heads: readonly (readonly LanePolicySpec[])[] };

/** What may stand beside `policy` in the spec of each. */
const OPTIONS = {
  auto: [],
  full: [],
  window: ["tokens"],
  sinks: ["window", "sinks", "positions"],
  h2o: ["heavy", "recent", "weigh", "per", "positions"],
  snapkv: ["tokens", "window", "kernel", "pool", "per", "positions"],
  keyformer: [
    "heavy",
    "recent",
    "noise",
    "temperature",
    "warming",
    "maxTemperature",
    "seed",
    "per",
    "positions",
  ],
  kvmerger: ["tokens", "recent", "heavy", "similarity", "per", "positions"],
  compensated: ["window", "sinks"],
  recycled: ["tokens", "stride", "similar", "every", "kernel", "sinks", "per"],
  tokenselect: ["tokens", "init", "local", "similar", "per"],
  think: ["keep", "recent", "queries", "of"],
  razor: ["window", "sinks", "echo", "induction"],
  duo: ["keep", "sinks", "recent"],
  lacache: ["tokens", "sinks", "span", "overlap"],
  perLayer: ["layers"],
  perHead: ["heads"],
} satisfies Record<PolicySpec["policy"], readonly string[]>;

/**
 * Makes the policy that a spec (or, for one without options, its name) stands for. Throws INVALID_ARGUMENT for an
 * unknown name, listing the known ones, for an option that the policy does not have, and as the policy itself does.
 * `heads` say which heads of the model retrieve, for policies that ask.
 */
export function resolvePolicy(
  spec: PolicySpec | PolicySpec["policy"],
  heads: ModelHeads = UNKNOWN_HEADS,
): CachePolicy | PolicyOfLane {
  const known = checked(typeof spec === "string" ? { policy: spec } : spec);
  switch (known.policy) {
    case "auto":
      return undecided;
    case "lacache":
      return lacache(known);
    case "razor":
      return razor(known, heads.scores);
    case "duo":
      return duo(known, heads.gates);
    case "perLayer":
      return perLayer(listOf(known.layers, "layers").map(resolveLane));
    case "perHead":
      return perHead(listOf(known.heads, "heads").map((heads) => listOf(heads, "heads").map(resolveLane)));
    default:
      return resolveLane(known);
  }
}

const undecided: PolicyOfLane = () => {
  throw new MillraceError("INTERNAL", "The cache policy is still to be chosen: see chooseAuto.");
};

/**
 * Reads a spec written as text: a name alone ("full"), with its first option ("window:512"), with options by name
 * ("sinks:window=512,sinks=4"), or JSON. The last may be a policy that is wrapped, with options of its own
 * ("think:keep=0.6,of=h2o:heavy=64,recent=64"). Throws INVALID_ARGUMENT as `resolvePolicy`.
 */
export function parsePolicy(text: string): PolicySpec {
  const spec = text.trimStart().startsWith("{") ? parseJson(text) : parseShort(text);
  resolvePolicy(spec);
  return spec;
}

/** A spec as `parsePolicy` reads it. */
export function formatPolicy(spec: PolicySpec): string {
  if (spec.policy === "perLayer" || spec.policy === "perHead") return JSON.stringify(spec);
  const options = Object.entries(spec)
    .filter(([key, value]) => key !== "policy" && key !== "of" && value !== undefined)
    .map(([key, value]) => `${key}=${value}`);
  if (spec.policy === "think" && spec.of) options.push(`of=${formatPolicy(spec.of)}`);
  return options.length === 0 ? spec.policy : `${spec.policy}:${options.join(",")}`;
}

function parseJson(text: string): PolicySpec {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const message = `This cache policy is not JSON: ${text}`;
    throw new MillraceError("INVALID_ARGUMENT", message, { text }, { cause });
  }
}

function parseShort(text: string): PolicySpec {
  const [, name = text, all] = /^([^:]*):(.*)$/s.exec(text) ?? [];
  const spec: Record<string, unknown> = { policy: name };
  const { policy } = checked(spec);
  const [, list, of] = /^(?:(.*?),)?\s*of=(.*)$/s.exec(all ?? "") ?? [null, all];
  if (of) spec.of = parseShort(of);
  for (const [i, part] of (list?.split(",") ?? []).entries()) {
    const [, key, value] = /^([^=]*)=(.*)$/s.exec(part) ?? [
      null,
      i === 0 ? OPTIONS[policy][0] : undefined,
      part,
    ];
    if (key === undefined || value === undefined || value.trim() === "") {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `"${part}" stands where an option of cache policy "${name}" is wanted, such as ${example(policy)}.`,
        { text },
      );
    }
    spec[key.trim()] = Number.isNaN(Number(value)) ? value.trim() : Number(value);
  }
  return spec as unknown as PolicySpec;
}

const example = (policy: PolicySpec["policy"]): string => {
  const [option] = OPTIONS[policy];
  return option === undefined ? `"${policy}"` : `"${policy}:${option}=N"`;
};

function resolveLane(spec: LanePolicySpec): CachePolicy {
  const known = checked(spec);
  switch (known.policy) {
    case "full":
      return full();
    case "window":
      return window(known);
    case "sinks":
      return sinks(known);
    case "h2o":
      return h2o(known);
    case "snapkv":
      return snapkv(known);
    case "keyformer":
      return keyformer(known);
    case "kvmerger":
      return kvmerger(known);
    case "compensated":
      return compensated(known);
    case "recycled":
      return recycled(known);
    case "tokenselect":
      return tokenselect(known);
    case "think":
      return think({ ...known, of: resolveLane(known.of ?? { policy: "full" }) });
    case "auto":
    case "lacache":
    case "razor":
    case "duo":
    case "perLayer":
    case "perHead":
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `"${known.policy}" stands for a whole model, not for one lane.`,
      );
    default:
      return known satisfies never;
  }
}

function checked(spec: unknown): PolicySpec {
  const names = Object.keys(OPTIONS);
  const list = names.map((name) => `"${name}"`).join(", ");
  const name = typeof spec === "object" && spec !== null && "policy" in spec ? spec.policy : undefined;
  if (typeof name !== "string" || !Object.hasOwn(OPTIONS, name)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Unknown cache policy ${JSON.stringify(name ?? spec)}; known are ${list}.`,
      { known: names },
    );
  }
  const found = spec as PolicySpec;
  const options: readonly string[] = OPTIONS[found.policy];
  for (const key of Object.keys(found)) {
    if (key === "policy" || options.includes(key)) continue;
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Cache policy "${name}" has no option "${key}"; ${options.length > 0 ? `it has ${options.join(", ")}` : "it has none"}.`,
      { policy: name, option: key },
    );
  }
  return found;
}

function listOf<T>(list: readonly T[], name: string): readonly T[] {
  if (Array.isArray(list)) return list;
  throw new MillraceError("INVALID_ARGUMENT", `"${name}" of a cache policy must be a list of policies.`);
}
