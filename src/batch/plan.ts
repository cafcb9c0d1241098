/** The order in which a batch runs. Pure. */
import { type Group, saving, sharingGroups } from "./groups.js";
import { prefixTree } from "./prefix-tree.js";

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
 * generate while the prompts of later ones are run beside them (BatchLLM). Ties keep the order of the input.
 */
export function planBatch(prompts: readonly Planned[], page = 1): BatchPlan {
  const tree = prefixTree(
    prompts.map(({ tokens }) => tokens),
    page,
  );
  const groups = sharingGroups(tree)
    .map((group) => ({ group, share: decodeShare(group, prompts), first: Math.min(...group.prompts) }))
    .sort((a, b) => b.share - a.share || a.first - b.first)
    .map(({ group }) => group);
  return {
    order: groups.flatMap((group) => group.prompts),
    groups,
    promptTokens: prompts.reduce((sum, { tokens }) => sum + tokens.length, 0),
    savedTokens: saving(groups),
  };
}

function decodeShare({ prefix, prompts: members }: Group, prompts: readonly Planned[]): number {
  let [run, generated] = [prefix, 0];
  for (const member of members) {
    run += prompts[member]!.tokens.length - prefix;
    generated += prompts[member]!.answerTokens;
  }
  return generated / Math.max(1, run);
}
