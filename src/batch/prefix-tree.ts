/** The prefixes that prompts have in common, as a compressed tree. Pure. */
import { Slice, type Sliced, STEP } from "./slices.js";
import { sortPrompts } from "./sort.js";

export interface PrefixNode {
  /** Tokens from the root to here. */
  readonly depth: number;
  readonly children: readonly PrefixNode[];
  /** Prompts that share nothing more with another, by number; in the order of their tokens. */
  readonly prompts: readonly number[];
}

/**
 * The tree of all prefixes that at least two of `prompts` share; its root is the empty one.
 *
 * @param page Prefixes are counted in whole pages of so many tokens, as caches share them. A prompt's last token is never
 *   shared, since its logits are what an answer starts from.
 */
export function* prefixTree(prompts: readonly ArrayLike<number>[], page = 1): Sliced<PrefixNode> {
  const { order, shared } = yield* sortPrompts(prompts);
  const slice = new Slice();
  type Open = { readonly depth: number; readonly children: PrefixNode[]; readonly prompts: number[] };
  const root: Open = { depth: 0, children: [], prompts: [] };
  const path: Open[] = [root];
  const top = () => path[path.length - 1]!;
  for (const [i, prompt] of order.entries()) {
    const next = order[i + 1];
    const sharedWithNext =
      next === undefined ? 0 : inPages(shared[i + 1]!, prompts[prompt]!, prompts[next]!, page);
    // A prompt hangs where it parts from whichever neighbour it has more in common with.
    if (sharedWithNext > top().depth) {
      path.push({ depth: sharedWithNext, children: [], prompts: [] });
    }
    top().prompts.push(prompt);
    while (top().depth > sharedWithNext) {
      const done = path.pop()!;
      if (top().depth < sharedWithNext) path.push({ depth: sharedWithNext, children: [], prompts: [] });
      top().children.push(done);
    }
    if (slice.spend(STEP)) yield;
  }
  return root;
}

/** Of what two prompts share, whole pages without either's last token, in tokens. */
function inPages(shared: number, a: ArrayLike<number>, b: ArrayLike<number>, page: number): number {
  const most = Math.max(0, Math.min(a.length, b.length) - 1);
  return Math.floor(Math.min(shared, most) / page) * page;
}
