/** Does it fit? Answered with numbers, from plans alone, before anything is allocated. */
import { type CacheGroup, type CacheLayout, pagesFor, scoreBytes } from "../cache/layout.js";
import { MillraceError } from "../errors.js";
import { formatBytes } from "./bytes.js";

export interface FitQuestion {
  readonly layout: CacheLayout;
  readonly weightBytes: number;
  readonly scratchBytes: number;
  /** Tokens that one request may have (Infinity where the policy bounds any stream), and whether that is fixed. */
  readonly context: number;
  readonly contextIsFixed: boolean;
  /** Requests that shall run at once. */
  readonly sequences: number;
  /** The caller's budget; null: none given. */
  readonly budgetBytes: number | null;
  /** Memory of this machine or container: the limit where no budget is given. */
  readonly machineBytes: number;
}

export interface Fit {
  /** Tokens that one request may have: what was asked for, or less where the budget leaves less. */
  readonly context: number;
  /** Whole pages. */
  readonly cacheBytes: number;
  /** Of these, what one request needs; and what all that may run at once could fill, had the budget more. */
  readonly leastBytes: number;
  readonly mostBytes: number;
  /** Scratch and page tables. */
  readonly scratchBytes: number;
}

/** A model that can hold less than this many tokens is of no use to anybody. */
const LEAST_CONTEXT = 64;

/**
 * Splits the budget. Weights and scratch are what they are; the cache gets what `sequences` requests of `context`
 * tokens can fill, or what is left of the budget, which they then share. It must hold one such request; where the
 * context was not asked for, it shrinks to what one request can have.
 *
 * Throws OUT_OF_BUDGET with what is needed and what there is.
 */
export function fitMemory(question: FitQuestion): Fit {
  const { layout, weightBytes, sequences, budgetBytes, machineBytes } = question;
  const has = budgetBytes ?? machineBytes;
  const cacheFor = (tokens: number) => pagesFor(layout, tokens) * layout.pageBytes;
  const tables = (tokens: number) => sequences * tableBytes(layout, tokens);
  const rest = (tokens: number) => has - weightBytes - question.scratchBytes - tables(tokens);

  let { context } = question;
  if (budgetBytes !== null && !question.contextIsFixed) {
    let [low, high] = [Math.min(LEAST_CONTEXT, context), context];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (cacheFor(middle) <= rest(middle)) low = middle;
      else high = middle - 1;
    }
    context = low;
  }

  const one = cacheFor(context);
  const all = one * sequences;
  const scratchBytes = question.scratchBytes + tables(context);
  const cacheBytes =
    budgetBytes === null
      ? all
      : Math.min(all, Math.floor(rest(context) / layout.pageBytes) * layout.pageBytes);
  const least = budgetBytes === null ? all : one;
  if (weightBytes + scratchBytes + least > has) {
    const needs = weightBytes + scratchBytes + least;
    const each = context === Number.POSITIVE_INFINITY ? "an endless stream" : `${context} tokens`;
    const cacheOf = `cache of ${each}${budgetBytes === null && sequences > 1 ? ` x ${sequences} sequences` : ""}`;
    throw new MillraceError(
      "OUT_OF_BUDGET",
      `Needs ${formatBytes(needs)} (weights ${formatBytes(weightBytes)}, ${cacheOf} ${formatBytes(least)}, scratch ` +
        `${formatBytes(scratchBytes)}); ${budgetBytes === null ? "this machine has" : "the budget is"} ` +
        `${formatBytes(has)}. Choose a smaller model or codec, fewer sequences, a shorter context, or more memory.`,
      { needs, has, weightBytes, cacheBytes: least, scratchBytes, context, sequences },
    );
  }
  return { context, cacheBytes, leastBytes: one, mostBytes: all, scratchBytes };
}

/**
 * Upper bound of the page tables of one sequence: page numbers, positions, rotations, and what the policy wants beside
 * them, which grow by doubling; and of the scores by which its queries choose.
 */
function tableBytes(layout: CacheLayout, tokens: number): number {
  let bytes = 0;
  for (const { policy, lanes, pageTokens } of layout.groups) {
    const pages = Math.ceil(policy.capacity({ tokens, step: layout.step }) / pageTokens) + 1;
    const mass = policy.mass ? lanes.length * pageTokens : 0;
    const counts = (policy.merges ? pageTokens : 0) + (policy.chooses ? pageTokens : 0);
    bytes += 2 * 4 * pages * (lanes.length + pageTokens + 1 + mass + counts);
  }
  const slotsOf = ({ policy, pageTokens }: CacheGroup) =>
    policy.capacity({ tokens, step: layout.step }) + 2 * pageTokens;
  return bytes + scoreBytes(layout, slotsOf);
}
