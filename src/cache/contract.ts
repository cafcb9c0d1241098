/**
 * What a cache policy is. A policy decides which stored tokens stay; it never touches memory. It reads a view of one
 * lane group of one sequence and returns a plan; only `LaneTable` carries plans out, and every step of a plan is
 * counted in the report and told to listeners.
 *
 * A policy is one file in policies/ and one line in policies/resolve.ts. Most write only a score and let `byScore`
 * (score.ts) make the plan, or only the rule by which queries choose what they attend to (`choosing` in choosing.ts);
 * those that need more (their own segment, moves, merges) write `plan`, most simply within `inBlocks` (blocks.ts).
 * Policies compose by wrapping
 * (policies/visible.ts) and by giving lanes policies of their own (`perLayer`, `perHead` in lanes.ts), never by flags.
 * test/support/cache-suite.ts holds what every one of them must.
 *
 * To add a kind of plan step (to recode, say): add it to `PlanStep`; write how it is checked and carried out in a file of
 * its own beside table/thin.ts, and call it from `StagedPlan.stage`, where it must be undone, and `LaneTable.evict`; count
 * it in `LaneCounts` (table/counts.ts) and tell it as a `CacheEvent`; give it a policy in test/support/cache-policies.ts.
 * The union holds only what is carried out.
 */
import type { ChoiceRule, Tempered } from "../backends/contract.js";

/** One kv head of one layer. */
export interface Lane {
  readonly layer: number;
  readonly head: number;
}

/**
 * Where a token lies: "sinks" holds the first `CachePolicy.sinks` tokens of the stream (or, where plans settle, the
 * settled ones), "stream" all others. The tokens of a segment have pages of their own and one offset, so that a segment
 * can be moved at no cost.
 */
export type Segment = "sinks" | "stream";

/** Tokens that a cache must expect. */
export interface Demand {
  /** Most tokens of the whole stream; Infinity where it never ends. */
  readonly tokens: number;
  /** Most tokens that one step brings. */
  readonly step: number;
}

/** What a policy sees of one lane group just before `incoming` tokens are stored. Valid during `plan` only. */
export interface LaneView {
  readonly lanes: readonly Lane[];
  /** Tokens ever stored, those dropped since included. */
  readonly seen: number;
  /** Tokens held now. */
  readonly length: number;
  /** Tokens about to be stored. */
  readonly incoming: number;
  /** Position of the first of them. */
  readonly nextPosition: number;
  /** Most tokens that may be held, the incoming ones included: the policy's capacity. */
  readonly budget: number;
  /** Original position of the token in each slot, -1 where there is none. Read only. */
  readonly positions: Int32Array;
  /** Tokens held in a segment. */
  lengthOf(segment: Segment): number;
  segmentOf(slot: number): Segment;
  /** Offset that a segment was last moved by; 0 at first. */
  offsetOf(segment: Segment): number;
  /** Slots that hold tokens, oldest first. */
  oldest(): IterableIterator<number>;
  /** Slots that hold tokens, newest first. */
  newest(): IterableIterator<number>;
  /**
   * Attention probability that each slot has received since its token was stored, as far as `CachePolicy.mass` asks
   * for it, summed over the group's query heads and lanes; a fresh array, [slots]. Throws INTERNAL where it does not.
   */
  mass(): Float32Array;
  /** How many tokens a slot stands for: 1, or more where others were merged into it. */
  countOf(slot: number): number;
  /** Keys of the tokens in these slots as they are stored, [lanes, slots, D]; a fresh array. Zero where thin. */
  keys(slots: readonly number[]): Float32Array;
  /** Whether a slot's key is stored without some of its elements. */
  isThin(slot: number): boolean;
  /**
   * Sums of the squares of the queries that `CachePolicy.thins` asks for, by element, over tokens and query heads;
   * a fresh array, [lanes, D]. Null where some tokens are thin: what is stored of them is chosen, and nobody measures.
   */
  queries(): Float32Array | null;
}

export type PlanStep =
  /** These tokens go for good although later queries could have seen them. */
  | { readonly kind: "drop"; readonly slots: ArrayLike<number> }
  /** These tokens lie outside the layer's own sliding window: no later query could see them. Nothing is lost. */
  | { readonly kind: "expire"; readonly slots: ArrayLike<number> }
  /**
   * The tokens in `slots` become part of the one in `into`: its key and value become the sums of theirs and its own,
   * each times its weight, and its slot counts as as many tokens as all of them did.
   */
  | {
      readonly kind: "merge";
      readonly into: number;
      readonly slots: ArrayLike<number>;
      /** [lanes, 1 + slots.length], the weight of `into` first; those of a lane add up to 1. */
      readonly weights: Float32Array;
    }
  /**
   * From now on the keys of these tokens, of the stream, are stored without some of their elements, for good: see
   * `Thins`. `elements` [lanes, `width(D)`] are those that stay, ascending in each lane; null: as chosen before,
   * since all thin tokens of a lane have the same.
   */
  | { readonly kind: "thin"; readonly slots: ArrayLike<number>; readonly elements: Int32Array | null }
  /**
   * From now on the segment's keys count as stored `offset` positions further on (negative: back) than they were.
   * Visibility still follows original positions.
   */
  | { readonly kind: "move"; readonly segment: Segment; readonly offset: number }
  /**
   * From now on all tokens that stay count as stored at consecutive positions that end just before the first incoming
   * one, and lie in the segment "sinks". Keys whose distance to most others changes are rotated where they lie.
   * Visibility still follows original positions.
   */
  | { readonly kind: "settle" };

export type Plan = readonly PlanStep[];

/** Which probabilities add up to the mass that a policy sees. */
export interface MassSpec {
  /**
   * Only those that the last queries before tokens next go give (where a step must end: see `maxIncoming`); what was
   * given before is forgotten. At most as many as come between. Default: those of all queries.
   */
  readonly queries?: number;
  /** Tokens until some go next, when `seen` have been stored. Default: `maxIncoming`. */
  left?(seen: number): number;
  /** Softmax to take them from, when `seen` tokens have been stored; the same between two steps that must end. Default: attention's own. */
  tempered?(seen: number): Tempered;
}

/** How plans take elements out of keys; the same for all tokens that are thin. */
export interface Thins {
  /** Elements that stay of a key of D. */
  width(headWidth: number): number;
  /** Most tokens of the stream that are not thin, incoming ones included. */
  readonly dense: number;
  /** Of these, those that stay so when others become thin. */
  readonly recent: number;
  /** Tokens of which a choice of elements takes the queries into account: those before `seen` is a multiple of `block`. */
  readonly queries: number;
  readonly block: number;
}

/** Lanes that decide together and so hold the same tokens: all, those of a layer, or each alone. */
export type Scope = "model" | "layer" | "head";

export interface CachePolicy {
  /** Name and options in one canonical line, e.g. "window(tokens=512)"; policies with one id behave alike. */
  readonly id: string;
  /**
   * Whether every token stays where it was stored, unchanged, for good: full pages of two streams that begin alike are
   * then alike, and can be shared. Default false.
   */
  readonly keepsAll?: boolean;
  /** Which of the lanes that have this policy decide together. Default "model". */
  readonly per?: Scope;
  /** First tokens of the stream that get a segment of their own; where plans settle, room for all that are settled. Default 0. */
  readonly sinks?: number;
  /** Most tokens that are not settled yet, where plans settle. Default: plans do not, and nobody pays. */
  readonly settles?: number;
  /**
   * Lets each query choose what it attends to of what is held. Lanes of different layers never choose together, and
   * `maxIncoming` must be at most MOST_CHOOSERS. Default: all is attended, and nobody pays.
   */
  readonly chooses?: ChoiceRule;
  /** Whether plans merge tokens. Default false; nobody pays otherwise. */
  readonly merges?: boolean;
  /** Lets plans take elements out of keys. Default: all are stored whole. */
  readonly thins?: Thins;
  /** Asks attention to keep the mass that each slot receives. Default: it does not, and nobody pays. */
  readonly mass?: MassSpec;
  /** Most tokens that a lane ever holds under this demand, so that admission knows the worst case. */
  capacity(demand: Demand): number;
  /**
   * Most tokens that this policy takes in one step when `seen` have been stored so far; longer runs are to be cut. At
   * least 1. Default: no limit.
   */
  maxIncoming?(seen: number): number;
  /**
   * Called before every step. Pure: mutates nothing. After the plan at most `view.budget - view.incoming` tokens may
   * be left.
   */
  plan(view: LaneView): Plan;
}

/** Which policy a lane of a model of `numLayers` layers has. */
export type PolicyOfLane = (lane: Lane, numLayers: number) => CachePolicy;

export const NOTHING: Plan = [];
