/** The order in which a batch runs. Pure. */
import { type Group, saving, sharingGroups } from "./groups.js";
import { prefixTree } from "./prefix-tree.js";
import { atOnce, Slice, type Sliced, STEP, sorted } from "./slices.js";

/** A prompt as far as planning goes. */
export interface Planned {
  readonly tokens: ArrayLike<number>;
  /** Tokens that its answer may come to. */
  readonly answerTokens: number;
}

export interface BatchPlan {
  /** Prompts by number, in the order in which they start. */
  readonly order: readonly number[];
  readonly groups: readonly Group[];
  readonly promptTokens: number;
  /** Of these, tokens that need not be run, since another of the group has run them. */
  readonly savedTokens: number;
}

/**
 * Groups that share prefixes, those first whose answers are longest beside what of their prompts is to be run: they still
 * generate while the prompts of later ones are run beside them (BatchLLM). Ties keep the order of the input. In slices, since
 * tens of thousands of prompts take seconds.
 */
export function* planning(prompts: readonly Planned[], page = 1): Sliced<BatchPlan> {
  const tree = yield* prefixTree(
    prompts.map(({ tokens }) => tokens),
    page,
  );
  const slice = new Slice();
  const ranked: { readonly group: Group; readonly share: number; readonly first: number }[] = [];
  for (const group of yield* sharingGroups(tree)) {
    ranked.push({ group, share: decodeShare(group, prompts), first: firstOf(group) });
    if (slice.spend(STEP * group.prompts.length)) yield;
  }
  const order: number[] = [];
  const groups: Group[] = [];
  for (const { group } of yield* sorted(ranked, (a, b) => b.share - a.share || a.first - b.first)) {
    groups.push(group);
    for (const prompt of group.prompts) order.push(prompt);
    if (slice.spend(STEP * group.prompts.length)) yield;
  }
  return {
    order,
    groups,
    promptTokens: prompts.reduce((sum, { tokens }) => sum + tokens.length, 0),
    savedTokens: saving(groups),
  };
}

/** As `planning`, in one go. */
export const planBatch = (prompts: readonly Planned[], page = 1): BatchPlan =>
  atOnce(planning(prompts, page));

const firstOf = ({ prompts }: Group): number =>
  prompts.reduce((first, prompt) => Math.min(first, prompt), Number.POSITIVE_INFINITY);

function decodeShare({ prefix, prompts: members }: Group, prompts: readonly Planned[]): number {
  let [run, generated] = [prefix, 0];
  for (const member of members) {
    run += prompts[member]!.tokens.length - prefix;
    generated += prompts[member]!.answerTokens;
  }
  return generated / Math.max(1, run);
}
