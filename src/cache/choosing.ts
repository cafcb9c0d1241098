import type { ChoiceRule } from "../backends/contract.js";
import { type CachePolicy, NOTHING } from "./contract.js";

/** A policy that keeps every token and lets each query choose what it attends to. */
export interface ChoosingPolicy {
  /** As CachePolicy.id. */
  readonly id: string;
  /** Which lanes choose together. */
  readonly per: "layer" | "head";
  readonly rule: ChoiceRule;
}

/** Tokens of one sequence that may come with a step: what their queries score is held for all at once. */
const STEP = 16;

export function choosing({ id, per, rule }: ChoosingPolicy): CachePolicy {
  return {
    id,
    per,
    chooses: rule,
    capacity: (demand) => demand.tokens,
    maxIncoming: () => STEP,
    plan: () => NOTHING,
  };
}
