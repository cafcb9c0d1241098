/**
 * Prefixes that requests share (RadixAttention, arXiv 2312.07104): a tree of the tokens that have been run, each edge a
 * run of tokens on the pages that hold their keys and values. Who begins with the same tokens takes the pages over
 * instead of running the tokens again.
 *
 * Pages of the tree come from the pool that requests draw on. Those that nobody uses are given up the moment a request
 * needs a page, least recently used first: free + evictable + referenced + those that requests hold alone = the pool.
 *
 * Edges are whole blocks, so that a block's pages are never written to again; what a sequence has beyond its last
 * block when it ends hangs below it as a leaf of its own, the tail. Where tokens part within a block, its pages are taken
 * over all the same, and copied before the first write (where a block is one row of every table: of several rows the
 * first would not be written to, and end up in two places of the tree).
 *
 * What was taken over was run in other chunks than it would be now. A row's numbers do not depend on the rows beside it
 * where kernels sum in one order, so logits are the same to the last bit (seen on the reference and native backends, with
 * every codec); where a kernel treats chunks of other lengths otherwise, they agree as chunks of other lengths do.
 */
import type { CacheLayout } from "./layout.js";
import type { KvPool, Reclaimer } from "./pool.js";
import { type LowerPrefixes, putBelow } from "./prefix/below.js";
import { beginning, createNode, type End, enter, leave, type Node, type Pages, walk } from "./prefix/node.js";
import { blockTokens, join, numPages, PrefixPages } from "./prefix/pages.js";

export type { LowerPrefixes } from "./prefix/below.js";

export interface PrefixUsage {
  /** Tokens held. */
  readonly tokens: number;
  /** Pages held: those that requests under way use, and those that go the moment a request needs them. */
  readonly referenced: number;
  readonly evictable: number;
  /** Pages that more than one request uses. */
  readonly shared: number;
  /** Since the start: prompts that looked here, and those that found something; the same in tokens; pages given up. */
  readonly lookups: number;
  readonly hits: number;
  readonly lookupTokens: number;
  readonly hitTokens: number;
  readonly evictedPages: number;
  /** Tokens that came back from disk, and bytes that lie there; 0 where nothing goes there. */
  readonly broughtTokens: number;
  readonly diskBytes: number;
}

/** What a prompt would find now. */
export interface Found {
  /** Tokens that need not be run: at most all but the last. */
  readonly tokens: number;
  /** Pages of these that requests under way use: to take them over takes nothing from anybody. */
  readonly referenced: number;
  /** A request under way is about to run the block that comes next. */
  readonly promised: boolean;
}

/** Who runs the block that comes next where it stands. */
export interface Runner {
  /** Whether that block is a prompt's, too, whose way ends at the same place. */
  runs(prompt: Int32Array): boolean;
}

export type PrefixNode = Node<Runner>;

const NOTHING: Found = { tokens: 0, referenced: 0, promised: false };

/**
 * The tree over one pool, whose `reclaimer` it is. Sequences reach it through leases (prefix/lease.ts). Prompts share
 * within a namespace: each adapter, say, has one.
 */
export class PrefixTree implements Reclaimer {
  readonly block: number;
  readonly pages: PrefixPages;
  /** Changes whenever what `find` says may have. */
  version = 0;
  /** Null: what is given up is gone. */
  below: LowerPrefixes | null = null;
  /** What has happened since the start: see PrefixUsage. */
  readonly counters = {
    lookups: 0,
    hits: 0,
    lookupTokens: 0,
    hitTokens: 0,
    evictedPages: 0,
    broughtTokens: 0,
  };
  readonly #pool: KvPool;
  readonly #roots = new Map<string, PrefixNode>();
  /** Nodes that nobody uses, least recently used first; each after all of its children. */
  readonly #unused = new Set<PrefixNode>();
  #tokens = 0;
  #referenced = 0;
  #evictable = 0;
  #shared = 0;

  /** A tree over `pool`, or null where sequences of this layout cannot share. */
  static over(pool: KvPool, layout: CacheLayout): PrefixTree | null {
    const block = blockTokens(layout);
    return block === null ? null : new PrefixTree(pool, new PrefixPages(pool, layout, block));
  }

  private constructor(pool: KvPool, pages: PrefixPages) {
    this.#pool = pool;
    this.pages = pages;
    this.block = pages.block;
    pool.reclaimer = this;
  }

  /** Pages that requests under way use. */
  get referenced(): number {
    return this.#referenced;
  }

  usage(): PrefixUsage {
    return {
      tokens: this.#tokens,
      referenced: this.#referenced,
      evictable: this.#evictable,
      shared: this.#shared,
      ...this.counters,
      diskBytes: this.below?.diskBytes ?? 0,
    };
  }

  /** All that is held, each after its parent. */
  *nodes(): Generator<Readonly<PrefixNode>> {
    const open = [...this.#roots.values()];
    for (let node = open.pop(); node; node = open.pop()) {
      if (node.parent) yield node;
      open.push(...node.children);
    }
  }

  /** What is held and not in use, most recently used first: each after its parent. */
  unused(): readonly Readonly<PrefixNode>[] {
    return [...this.#unused].reverse();
  }

  /** What a lease would find for a prompt. Changes nothing, not even what was used last. */
  find(namespace: string, prompt: Int32Array): Found {
    const root = this.#roots.get(namespace);
    if (!root) return NOTHING;
    const end = this.walk(root, prompt, 0);
    let used: PrefixNode | null = end.node;
    let depth = end.depth;
    while (used && used.locks === 0) {
      depth -= used.tokens.length;
      used = used.parent;
    }
    if (end.child && end.child.locks > 0) depth += end.whole;
    const promised = this.isPromised(end, prompt, null);
    const tokens = end.depth + end.whole + (promised ? 0 : end.part);
    return { tokens, referenced: this.pages.count(depth), promised };
  }

  /** Where a prompt's way ends; its last token must be run, since an answer starts from its logits. */
  walk(node: PrefixNode, prompt: Int32Array, depth: number): End<Runner> {
    const end = walk(node, prompt, depth, prompt.length - 1, this.block);
    return this.pages.isRow ? end : { ...end, part: 0 };
  }

  /** Whether somebody else is about to run the block with which a way goes on. */
  isPromised({ node, depth, whole }: End<Runner>, prompt: Int32Array, self: Runner | null): boolean {
    const end = depth + this.block;
    if (whole > 0 || end >= prompt.length) return false;
    for (const other of node.working) {
      if (other !== self && other.runs(prompt)) return true;
    }
    return false;
  }

  /** Gives up pages that nobody uses, least recently used first, until `count` more are free. */
  reclaim(count: number): boolean {
    const wanted = this.#pool.numFree + count;
    const before = this.counters.evictedPages;
    for (let missing = count; missing > 0; missing = wanted - this.#pool.numFree) {
      const oldest = this.#unused.values().next();
      if (oldest.done) break;
      this.#giveUp(oldest.value, missing);
    }
    return this.counters.evictedPages > before;
  }

  /** Gives up all that nobody uses. */
  clear(): void {
    for (const node of [...this.#unused]) this.#giveUp(node, this.#pool.numPages);
  }

  /** Where the tokens of a namespace start. */
  root(namespace: string): PrefixNode {
    const known = this.#roots.get(namespace);
    if (known) return known;
    const root: PrefixNode = createNode(namespace, null, new Int32Array(), this.pages.join([]));
    this.#roots.set(namespace, root);
    return root;
  }

  /** Lets go of namespaces that have nothing. */
  forgetRoots(): void {
    for (const root of [...this.#roots.values()]) this.#forgetRoot(root);
  }

  /** A node has a user more, and its parent had before. */
  lock(node: PrefixNode): void {
    node.locks++;
    if (!node.parent) return;
    this.version++;
    const pages = numPages(node.pages);
    if (node.locks === 1) {
      this.#unused.delete(node);
      this.#evictable -= pages;
      this.#referenced += pages;
    } else if (node.locks === 2) this.#shared += pages;
  }

  /** A node has a user less, and its children had before. */
  unlock(node: PrefixNode): void {
    node.locks--;
    this.version++;
    if (!node.parent) {
      this.#forgetRoot(node);
      return;
    }
    const pages = numPages(node.pages);
    if (node.locks === 0) {
      this.#unused.add(node);
      this.#evictable += pages;
      this.#referenced -= pages;
    } else if (node.locks === 1) this.#shared -= pages;
  }

  /** A node that nobody uses was used just now. */
  touch(node: PrefixNode): void {
    if (this.#unused.delete(node)) this.#unused.add(node);
  }

  /** Tokens that nobody uses follow a node, on pages that the tree holds from now on. */
  addUnused(parent: PrefixNode, tokens: Int32Array, pages: Pages): PrefixNode {
    const node = this.#add(parent, tokens, pages);
    this.#evictable += numPages(pages);
    this.#unused.add(node);
    return node;
  }

  /** As `addUnused`, for tokens with one user. */
  addUsed(parent: PrefixNode, tokens: Int32Array, pages: Pages): PrefixNode {
    const node = this.#add(parent, tokens, pages);
    this.#referenced += numPages(pages);
    node.locks = 1;
    return node;
  }

  /** The same in the edge of a node without children, which has that user alone. */
  extend(node: PrefixNode, tokens: Int32Array, pages: Pages): void {
    node.tokens = join([node.tokens, tokens]);
    node.pages = this.pages.join([node.pages, pages]);
    this.#tokens += tokens.length;
    this.#referenced += numPages(pages);
    this.version++;
  }

  /** Lets go of a tail that `tokens` begin with: it says nothing that they do not. */
  dropBeginning(node: PrefixNode, tokens: Int32Array): void {
    const tail = beginning(node, tokens);
    if (tail) this.#shorten(tail, 0);
  }

  /**
   * Cuts an edge in two after so many tokens, fewer than it has. Returns the upper part, which is new: who stood at its end
   * stands there still.
   */
  split(node: PrefixNode, tokens: number): PrefixNode {
    const upper = createNode(
      node.namespace,
      node.parent,
      node.tokens.slice(0, tokens),
      this.pages.slice(node.pages, 0, tokens),
    );
    leave(node);
    enter(upper, this.block);
    node.pages = this.pages.slice(node.pages, tokens, node.tokens.length);
    node.tokens = node.tokens.slice(tokens);
    node.parent = upper;
    upper.children.push(node);
    upper.locks = node.locks;
    if (upper.locks === 0) this.#unused.add(upper);
    return upper;
  }

  #add(parent: PrefixNode, tokens: Int32Array, pages: Pages): PrefixNode {
    const child = createNode(parent.namespace, parent, tokens, pages);
    enter(child, this.block);
    this.#tokens += tokens.length;
    this.version++;
    return child;
  }

  /** Gives up the end of an unused leaf: `pages` at least, or all. */
  #giveUp(node: PrefixNode, pages: number): void {
    const blocks = Math.ceil(node.tokens.length / this.block);
    const less = Math.ceil(pages / this.pages.count(this.block));
    const kept = Math.max(0, blocks - less) * this.block;
    if (this.below) putBelow(this.below, node, kept, this.pages);
    this.counters.evictedPages += this.#shorten(node, kept);
  }

  /** Leaves an unused leaf so many of its tokens; with none it goes. Returns the pages that it no longer holds. */
  #shorten(node: PrefixNode, tokens: number): number {
    const pages = this.pages.slice(node.pages, tokens, node.tokens.length);
    const count = numPages(pages);
    this.pages.release(pages);
    this.#evictable -= count;
    this.#tokens -= node.tokens.length - tokens;
    this.version++;
    if (tokens > 0) {
      node.pages = this.pages.slice(node.pages, 0, tokens);
      node.tokens = node.tokens.slice(0, tokens);
    } else {
      this.#unused.delete(node);
      leave(node);
      if (!node.parent!.parent) this.#forgetRoot(node.parent!);
    }
    return count;
  }

  #forgetRoot(root: PrefixNode): void {
    if (root.locks === 0 && root.children.length === 0) this.#roots.delete(root.namespace);
  }
}
