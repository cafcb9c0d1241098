/** The shape of a prefix tree: nodes and how tokens find their way through them. Knows nothing of pools and leases. */

/** Pages of a run of tokens by group of the layout, [rows, lanes]. */
export type Pages = readonly Int32Array[];

/** A node and the edge that leads to it. `W` is whoever is at work where it ends. */
export interface Node<W> {
  readonly namespace: string;
  /** Null for the root of a namespace, which has no tokens. */
  parent: Node<W> | null;
  /** Whole blocks; in a tail, which has no children, less than one. */
  tokens: Int32Array;
  pages: Pages;
  /** In the order of their first blocks, of which none begins with another. */
  readonly children: Node<W>[];
  /** Sequences that use it. */
  locks: number;
  /** Who ends here and runs the block that comes next. */
  readonly working: Set<W>;
}

/** The child of a node that has most tokens in common with what comes next. */
export interface Near<W> {
  readonly child: Node<W> | null;
  /** Tokens in common. */
  readonly common: number;
}

/** Where the way of some tokens through the tree ends. */
export interface End<W> {
  readonly node: Node<W>;
  /** Position of the end of `node`. */
  readonly depth: number;
  /** The child that has more of them: `whole` tokens in whole blocks, and `part` of the block after those. */
  readonly child: Node<W> | null;
  readonly whole: number;
  readonly part: number;
}

export function createNode<W>(
  namespace: string,
  parent: Node<W> | null,
  tokens: Int32Array,
  pages: Pages,
): Node<W> {
  return { namespace, parent, tokens, pages, children: [], locks: 0, working: new Set() };
}

/** Follows tokens `from` to `end` down from `node`, at whose end `from` stands. Time: by the tokens, times the log of siblings. */
export function walk<W>(node: Node<W>, tokens: Int32Array, from: number, end: number, block: number): End<W> {
  let depth = from;
  for (;;) {
    const { child, common } = nearest(node, tokens, depth, end, block);
    const part = common % block;
    if (!child || common < child.tokens.length || part > 0) {
      return { node, depth, child, whole: common - part, part };
    }
    node = child;
    depth += common;
  }
}

/** The child of `node` that has most in common with tokens `from` to `end`. */
export function nearest<W>(
  { children }: Node<W>,
  tokens: Int32Array,
  from: number,
  end: number,
  block: number,
): Near<W> {
  const key = tokens.subarray(from, Math.min(end, from + block));
  const at = place(children, key);
  let best: Near<W> = { child: null, common: 0 };
  for (const child of [children[at], children[at - 1]]) {
    if (!child) continue;
    const common = commonLength(child.tokens, tokens, from, end);
    if (common > best.common) best = { child, common };
  }
  return best;
}

/** The child of `node` that is nothing but a beginning of `tokens`. */
export function beginning<W>({ children }: Node<W>, tokens: Int32Array): Node<W> | null {
  // No child begins with another, so what `tokens` begins with stands right before them.
  const before = children[place(children, tokens) - 1];
  if (!before || commonLength(before.tokens, tokens, 0, tokens.length) < before.tokens.length) return null;
  return before;
}

/** Puts a child in its place among its parent's. */
export function enter<W>(child: Node<W>, block: number): void {
  const siblings = child.parent!.children;
  siblings.splice(place(siblings, child.tokens.subarray(0, block)), 0, child);
}

/** Takes a child out from among its parent's. */
export function leave<W>(child: Node<W>): void {
  const siblings = child.parent!.children;
  siblings.splice(siblings.indexOf(child), 1);
}

/** Index of the first child that does not stand before `key`. */
function place<W>(children: readonly Node<W>[], key: Int32Array): number {
  let [low, high] = [0, children.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(children[middle]!.tokens, key)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Whether an edge stands before `key`, as words in a dictionary; what begins with `key` does not. */
function isBefore(edge: Int32Array, key: Int32Array): boolean {
  const common = commonLength(edge, key, 0, key.length);
  return common < key.length && (common === edge.length || edge[common]! < key[common]!);
}

function commonLength(edge: Int32Array, tokens: Int32Array, from: number, end: number): number {
  const most = Math.min(edge.length, end - from);
  let common = 0;
  while (common < most && edge[common] === tokens[from + common]) common++;
  return common;
}
