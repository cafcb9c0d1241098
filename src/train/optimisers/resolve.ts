/** Finds an optimiser by name, and checks what it is asked for. */
import type { TrainingArithmetic } from "../../backends/training.js";
import { invalid, refuseUnknown } from "../../engine/options.js";
import { ADAMW_DEFAULTS, AdamW, type AdamWOptions } from "./adamw.js";
import { APOLLO_DEFAULTS, APOLLO_MINI_DEFAULTS, Apollo, type ApolloOptions } from "./apollo.js";
import type { Optimiser, OptimiserName, Trainable } from "./contract.js";
import { MEZO_DEFAULTS, Mezo, type MezoOptions } from "./mezo.js";
import { MUON_DEFAULTS, Muon, type MuonOptions } from "./muon.js";

/** Which optimiser, with what it should do otherwise than by default. */
export type OptimiserSpec =
  | ({ readonly name: "adamw" } & AdamWOptions)
  | ({ readonly name: "muon" } & MuonOptions)
  | ({ readonly name: "apollo" | "apollo-mini" } & ApolloOptions)
  | ({ readonly name: "mezo" } & MezoOptions);

export const OPTIMISER_NAMES = [
  "adamw",
  "muon",
  "apollo",
  "apollo-mini",
  "mezo",
] as const satisfies readonly OptimiserName[];

/** The learning rate that each starts well with on small models trained from scratch. */
export const DEFAULT_RATES: Readonly<Record<OptimiserName, number>> = {
  adamw: 3e-3,
  muon: 1e-2,
  apollo: 1e-2,
  "apollo-mini": 1e-2,
  mezo: 1e-3,
};

/** The optimiser of `parameters` that `spec` asks for, with zeroed state. Throws OUT_OF_BUDGET. */
export function createOptimiser(
  spec: OptimiserSpec,
  arithmetic: TrainingArithmetic,
  parameters: readonly Trainable[],
): Optimiser {
  switch (spec.name) {
    case "adamw": {
      const { name: _, ...options } = spec;
      return new AdamW(arithmetic, parameters, options);
    }
    case "muon": {
      const { name: _, ...options } = spec;
      return new Muon(arithmetic, parameters, options);
    }
    case "apollo":
    case "apollo-mini": {
      const { name, ...options } = spec;
      return new Apollo(name === "apollo" ? "channel" : "tensor", arithmetic, parameters, options);
    }
    case "mezo": {
      const { name: _, ...options } = spec;
      return new Mezo(arithmetic, parameters, options);
    }
    default:
      throw invalid("optimiser", spec satisfies never, `one of ${OPTIMISER_NAMES.join(", ")}`);
  }
}

/** Every option of each, with its default; the rank of APOLLO depends on the matrix. */
const DEFAULTS: Readonly<Record<OptimiserName, Readonly<Record<string, number>>>> = {
  adamw: ADAMW_DEFAULTS,
  muon: { ...ADAMW_DEFAULTS, ...MUON_DEFAULTS },
  apollo: { ...ADAMW_DEFAULTS, ...APOLLO_DEFAULTS, rank: Number.NaN },
  "apollo-mini": { ...ADAMW_DEFAULTS, ...APOLLO_MINI_DEFAULTS },
  mezo: MEZO_DEFAULTS,
};

const isShare = (value: number) => value >= 0 && value < 1;
const isPositive = (value: number) => value > 0 && value < Number.POSITIVE_INFINITY;
const isCount = (value: number) => Number.isSafeInteger(value) && value >= 1;

const RANGES: Readonly<Record<string, readonly [(value: number) => boolean, string]>> = {
  beta1: [isShare, "a number of at least 0, below 1"],
  beta2: [isShare, "a number of at least 0, below 1"],
  momentum: [isShare, "a number of at least 0, below 1"],
  decay: [(value) => value >= 0 && value < Number.POSITIVE_INFINITY, "a number of at least 0"],
  epsilon: [isPositive, "a number above 0"],
  scale: [isPositive, "a number above 0"],
  rank: [isCount, "a whole number of at least 1"],
  refresh: [isCount, "a whole number of at least 1"],
  seed: [(value) => Number.isSafeInteger(value) && value >= 0, "a whole number from 0 to 2^53 - 1"],
};

/**
 * `spec`, or a name alone, with all its options. Throws INVALID_ARGUMENT for an unknown name or option and for values
 * out of range.
 */
export function checkOptimiser(spec: unknown): OptimiserSpec {
  const given = typeof spec === "string" ? { name: spec } : spec;
  const { name } = (given ?? {}) as { name?: unknown };
  const known = OPTIMISER_NAMES.find((candidate) => candidate === name);
  if (!known) throw invalid("optimiser", name, `one of ${OPTIMISER_NAMES.join(", ")}`);
  const defaults = DEFAULTS[known];
  refuseUnknown(`optimiser ${known}`, given, ["name", ...Object.keys(defaults)]);
  const all: Record<string, unknown> = { name: known };
  for (const [key, fallback] of Object.entries(defaults)) {
    const value = (given as Record<string, unknown>)[key] ?? fallback;
    if (Number.isNaN(value) && Number.isNaN(fallback)) continue;
    const [isFine, expected] = RANGES[key]!;
    if (typeof value !== "number" || !isFine(value)) throw invalid(`optimiser.${key}`, value, expected);
    all[key] = value;
  }
  return all as unknown as OptimiserSpec;
}
