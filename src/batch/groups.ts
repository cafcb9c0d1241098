/**
 * Which prompts run together, so that what they share is run once (BatchLLM, 2024): a tree of prefixes becomes groups of
 * one level, each with one prefix. Pure.
 */
import type { PrefixNode } from "./prefix-tree.js";
import { Slice, type Sliced, STEP } from "./slices.js";

/** Prompts that run one after another. */
export interface Group {
  /** Tokens that all of its prompts begin with; 0 where there is one prompt only. */
  readonly prefix: number;
  /** By number, those that share more next to each other. */
  readonly prompts: readonly number[];
}

/**
 * The groups that save the most: a group of n prompts over a prefix of p tokens saves (n - 1) p. Exact, by dynamic
 * programming: a prompt belongs to the nearest prefix above it that is a group's, so what a subtree saves depends on
 * nothing above but which ancestor that is. Takes time and memory of nodes times depth of the tree.
 */
export function* sharingGroups(root: PrefixNode): Sliced<Group[]> {
  const slice = new Slice();
  const nodes = yield* preorder(root, slice);
  /** best[v][j]: what v's subtree saves where its nearest group is ancestor j's (0: none); opens[v][j]: whether v has its own. */
  const best: Float64Array[] = [];
  const opens: Uint8Array[] = [];
  for (let v = nodes.length - 1; v >= 0; v--) {
    const { node, path, children } = nodes[v]!;
    const level = path.length;
    best[v] = new Float64Array(level + 1);
    opens[v] = new Uint8Array(level + 1);
    const below = (j: number) => children.reduce((sum, child) => sum + best[child]![j]!, 0);
    const own = node.depth * node.prompts.length - node.depth + below(level + 1);
    for (let j = 0; j <= level; j++) {
      const above = j === 0 ? 0 : nodes[path[j - 1]!]!.node.depth;
      const without = above * node.prompts.length + below(j);
      best[v]![j] = Math.max(own, without);
      if (own > without) opens[v]![j] = 1;
    }
    // Not asked for again.
    for (const child of children) best[child] = EMPTY;
    if (slice.spend(STEP * (level + 1) * (children.length + 1))) yield;
  }
  return yield* collect(nodes, opens, slice);
}

const EMPTY = new Float64Array(0);

/** Tokens that groups save, beside running every prompt whole. */
export function saving(groups: readonly Group[]): number {
  return groups.reduce((sum, { prefix, prompts }) => sum + prefix * (prompts.length - 1), 0);
}

interface Numbered {
  readonly node: PrefixNode;
  /** Its ancestors below the root, from above. */
  readonly path: readonly number[];
  readonly children: number[];
}

/** Nodes below the root and the root itself, parents before children. The root saves nothing and is nobody's group. */
function* preorder(root: PrefixNode, slice: Slice): Sliced<Numbered[]> {
  const nodes: Numbered[] = [];
  const waiting: { node: PrefixNode; path: readonly number[]; parent: number }[] = [
    { node: root, path: [], parent: -1 },
  ];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const { node, path, parent } = next;
    const number = nodes.length;
    nodes.push({ node, path, children: [] });
    nodes[parent]?.children.push(number);
    const below = [...path, number];
    for (const child of [...node.children].reverse())
      waiting.push({ node: child, path: below, parent: number });
    if (slice.spend(STEP * (path.length + 1 + node.children.length))) yield;
  }
  return nodes;
}

function* collect(nodes: readonly Numbered[], opens: readonly Uint8Array[], slice: Slice): Sliced<Group[]> {
  const groups: { prefix: number; prompts: number[] }[] = [];
  /** By node: the level of its nearest group, and that group. */
  const states: { level: number; group: (typeof groups)[number] | null }[] = [];
  for (const [v, { node, path }] of nodes.entries()) {
    const parent = path[path.length - 1];
    let { level, group } = parent === undefined ? { level: 0, group: null } : states[parent]!;
    if (opens[v]![level] === 1) {
      group = { prefix: node.depth, prompts: [] };
      groups.push(group);
      level = path.length + 1;
    }
    states[v] = { level, group };
    for (const prompt of node.prompts) {
      if (group) group.prompts.push(prompt);
      else groups.push({ prefix: 0, prompts: [prompt] });
      if (slice.spend(STEP)) yield;
    }
  }
  return groups.map((group) => (group.prompts.length === 1 ? { ...group, prefix: 0 } : group));
}
