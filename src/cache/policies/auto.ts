import type { PolicySpec } from "./resolve.js";

export interface AutoQuestion {
  /** Whether the stream has no end; else the cache must take `context` tokens. */
  readonly endless: boolean;
  /** Tokens that the model is set up for. */
  readonly context: number;
  /** Whether the model's head scores are known, which razor needs. */
  readonly hasHeads: boolean;
  /** Whether the cache of this policy fits the budget. Where it does with a window, it does with any shorter one. */
  fits(policy: PolicySpec): boolean;
}

export interface AutoChoice {
  readonly policy: PolicySpec;
  /** Why, in one sentence for people. */
  readonly why: string;
}

const SINKS = 4;
/** With a shorter window razor's other heads see too little to be worth what the retrieving ones take. */
const LEAST_WINDOW = 64;

/**
 * The policy that loses least within a budget: everything where that fits; else, for streams that end, razor where the
 * retrieving heads fit whole beside a useful window of the others; else attention sinks beside the longest window that
 * fits, within what the model is set up for.
 */
export function chooseAuto({ endless, context, hasHeads, fits }: AutoQuestion): AutoChoice {
  if (!endless && fits({ policy: "full" })) {
    return { policy: { policy: "full" }, why: `The budget holds all ${context} tokens.` };
  }
  const razor = (window: number): PolicySpec => ({ policy: "razor", window, sinks: SINKS });
  if (!endless && hasHeads && fits(razor(LEAST_WINDOW))) {
    const window = largest(LEAST_WINDOW, Math.max(LEAST_WINDOW, context), (tokens) => fits(razor(tokens)));
    const why = `Not all tokens fit: heads that retrieve keep all ${context}, the others the last ${window}.`;
    return { policy: razor(window), why };
  }
  const sinks = (window: number): PolicySpec => ({ policy: "sinks", window, sinks: SINKS });
  const window = largest(1, Math.max(1, context - SINKS), (tokens) => fits(sinks(tokens)));
  const reason = endless ? "The stream may be endless" : "Not all tokens fit";
  return {
    policy: sinks(window),
    why: `${reason}: the first ${SINKS} tokens and the last ${window} are kept.`,
  };
}

/** The largest whole number in [low, high] for which `holds` does, given that it does up to some number; else `low`. */
function largest(low: number, high: number, holds: (value: number) => boolean): number {
  let [least, most] = [low, high];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (holds(middle)) least = middle;
    else most = middle - 1;
  }
  return least;
}
