import type { PrefixNode, PrefixTree } from "../prefix.js";
import { beginning, nearest } from "./node.js";

/** A run of tokens that was saved; with a namespace of null it is passed over, and what follows it. */
export interface SavedRun {
  readonly namespace: string | null;
  /** Place of the run that it follows among those before it, -1 for none. */
  readonly parent: number;
  /** Whole blocks; or less than one, and then no run follows. */
  readonly tokens: Int32Array;
}

/**
 * Takes runs into a tree, in the order that its `unused` gave them, as long as pages are free; those that are held already
 * are passed over. `fill` is called for every page of every run in turn, with null for one that was not taken in.
 */
export function restoreRuns(
  tree: PrefixTree,
  runs: readonly SavedRun[],
  fill: (page: number | null) => void,
): void {
  const nodes: (PrefixNode | null)[] = [];
  for (const { namespace, parent, tokens } of runs) {
    const above = namespace === null ? null : parent < 0 ? tree.root(namespace) : nodes[parent]!;
    const count = tree.pages.count(tokens.length);
    if (!above || count > tree.pages.numFree || isKnown(above, tokens, tree.block)) {
      for (let page = count; page > 0; page--) fill(null);
      nodes.push(null);
      continue;
    }
    const pages = tree.pages.take(tokens.length);
    for (const run of pages) for (const page of run) fill(page);
    nodes.push(tree.addUnused(above, tokens, pages));
  }
  for (const node of nodes.reverse()) if (node) tree.touch(node);
  tree.forgetRoots();
}

/** Whether a run shares a block with a child of `above`, or either says nothing that the other does not. */
function isKnown(above: PrefixNode, tokens: Int32Array, block: number): boolean {
  const { common } = nearest(above, tokens, 0, tokens.length, block);
  return common >= block || common === tokens.length || beginning(above, tokens) !== null;
}
