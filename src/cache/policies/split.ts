/** Policies that keep everything in some heads and little in the others. */
import { MillraceError } from "../../errors.js";
import type { CachePolicy, Lane, PolicyOfLane } from "../contract.js";
import { full } from "./full.js";

/** What is known of a model's kv heads, [layer][head] each; null where it was never found out. */
export interface ModelHeads {
  readonly scores: HeadScores | null;
  readonly gates: HeadGates | null;
}

/** How much the kv heads of a model retrieve: see `measureHeads` of the engine. */
export interface HeadScores {
  /** Attention to earlier copies of the query's own token. */
  readonly echo: readonly (readonly number[])[];
  /** Attention to the tokens that followed those copies. */
  readonly induction: readonly (readonly number[])[];
}

/** How much of each head must see all tokens, 0 to 1: see `trainGates` of the trainer. */
export type HeadGates = readonly (readonly number[])[];

export const UNKNOWN_HEADS: ModelHeads = { scores: null, gates: null };

/** A lane with what was found out about it. */
export interface ScoredLane extends Lane {
  readonly score: number;
}

/** Highest first; of equals the lower layer and head. */
export function ranked(scores: readonly (readonly number[])[]): ScoredLane[] {
  return scores
    .flatMap((heads, layer) => heads.map((score, head) => ({ layer, head, score })))
    .sort((a, b) => b.score - a.score);
}

/** How many of `lanes` a share of them is, rounded up to whole ones. */
export const shareOf = (share: number, { length }: readonly unknown[]): number =>
  Math.ceil(share * length - 1e-9);

/**
 * Everything for the lanes in `whole`, `others` for all others. Where `whole` is null, since nobody knows which lanes
 * these are, asking for any throws INVALID_ARGUMENT with `missing`.
 */
export function splitHeads(
  whole: readonly Lane[] | null,
  others: CachePolicy,
  missing: string,
): PolicyOfLane {
  const names = whole && new Set(whole.map(nameOf));
  return (lane) => {
    if (names) return names.has(nameOf(lane)) ? full() : others;
    throw new MillraceError("INVALID_ARGUMENT", missing);
  };
}

const nameOf = ({ layer, head }: Lane): string => `${layer}.${head}`;
