/** The prefixes that prompts have in common, as a compressed tree. Pure. */

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
export function prefixTree(prompts: readonly ArrayLike<number>[], page = 1): PrefixNode {
  const order = prompts.map((_, i) => i).sort((a, b) => compare(prompts[a]!, prompts[b]!) || a - b);
  type Open = { readonly depth: number; readonly children: PrefixNode[]; readonly prompts: number[] };
  const root: Open = { depth: 0, children: [], prompts: [] };
  const path: Open[] = [root];
  const top = () => path[path.length - 1]!;
  order.forEach((prompt, i) => {
    const next = order[i + 1];
    const sharedWithNext = next === undefined ? 0 : inPages(prompts[prompt]!, prompts[next]!, page);
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
  });
  return root;
}

/** Whole pages that two prompts begin with alike, in tokens. */
function inPages(a: ArrayLike<number>, b: ArrayLike<number>, page: number): number {
  const most = Math.min(a.length, b.length) - 1;
  let alike = 0;
  while (alike < most && a[alike] === b[alike]) alike++;
  return Math.floor(Math.max(0, alike) / page) * page;
}

function compare(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const both = Math.min(a.length, b.length);
  for (let i = 0; i < both; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}
