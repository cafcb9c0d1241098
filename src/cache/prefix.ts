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
import {
  beginning,
  createNode,
  type End,
  enter,
  leave,
  type Node,
  nearest,
  type Pages,
  walk,
} from "./prefix-node.js";
import type { SequenceCache } from "./sequence.js";

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

/** Where blocks go that the tree gives up, and come back from when a prompt wants them. Positions are whole blocks. */
export interface LowerPrefixes {
  readonly diskBytes: number;
  /** `way` are all tokens from a namespace's start; `payloadOf` gives the pages of the block at a position, from `from` on. */
  take(namespace: string, way: Int32Array, from: number, payloadOf: (at: number) => Uint8Array): void;
  /** How many tokens of a prompt it has from `from` on, before `end`. */
  find(namespace: string, prompt: Int32Array, from: number, end: number): number;
  /** Payloads of the blocks from `from` to `end`, as far as they can be read. Never rejects. */
  read(namespace: string, prompt: Int32Array, from: number, end: number): Promise<Uint8Array[]>;
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

type PrefixNode = Node<PrefixLease>;

/** A run of tokens that was saved; with a namespace of null it is passed over, and what follows it. */
export interface SavedRun {
  readonly namespace: string | null;
  /** Place of the run that it follows among those before it, -1 for none. */
  readonly parent: number;
  /** Whole blocks; or less than one, and then no run follows. */
  readonly tokens: Int32Array;
}

/** What a lease goes on with: whole blocks, and then `part` tokens of one more. */
interface Way {
  readonly tokens: number;
  readonly pages: Pages;
  readonly part: number;
  readonly partPages: Pages;
}

/** Most bytes that are brought back at a time: copying them must not hold others up. */
const BROUGHT_BYTES = 16 * 2 ** 20;

const NOTHING: Found = { tokens: 0, referenced: 0, promised: false };

/** Tokens of a block: of whole rows in every table of the layout. Null where caches so cut cannot share prefixes. */
export function blockTokens({ groups }: CacheLayout): number | null {
  if (!groups.every(({ policy }) => policy.keepsAll)) return null;
  return groups.reduce((block, { pageTokens }) => (block * pageTokens) / commonDivisor(block, pageTokens), 1);
}

/** The tree over one pool, whose `reclaimer` it is. Sequences reach it through leases. */
export class PrefixTree implements Reclaimer {
  readonly block: number;
  /** Changes whenever what `find` says may have. */
  version = 0;
  /** Null: what is given up is gone. */
  below: LowerPrefixes | null = null;
  readonly #pool: KvPool;
  readonly #layout: CacheLayout;
  /** A block is one row of every table. */
  readonly #takesParts: boolean;
  readonly #roots = new Map<string, PrefixNode>();
  /** Nodes that nobody uses, least recently used first; each after all of its children. */
  readonly #idle = new Set<PrefixNode>();
  #tokens = 0;
  #referenced = 0;
  #evictable = 0;
  #shared = 0;
  #lookups = 0;
  #hits = 0;
  #lookupTokens = 0;
  #hitTokens = 0;
  #evictedPages = 0;
  #broughtTokens = 0;

  /** A tree over `pool`, or null where sequences of this layout cannot share. */
  static over(pool: KvPool, layout: CacheLayout): PrefixTree | null {
    const block = blockTokens(layout);
    return block === null ? null : new PrefixTree(pool, layout, block);
  }

  private constructor(pool: KvPool, layout: CacheLayout, block: number) {
    this.#pool = pool;
    this.#layout = layout;
    this.block = block;
    this.#takesParts = layout.groups.every(({ pageTokens }) => pageTokens === block);
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
      lookups: this.#lookups,
      hits: this.#hits,
      lookupTokens: this.#lookupTokens,
      hitTokens: this.#hitTokens,
      evictedPages: this.#evictedPages,
      broughtTokens: this.#broughtTokens,
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
    return [...this.#idle].reverse();
  }

  /**
   * Takes in runs in the order that `unused` gave them, as long as pages are free; those that are held already are passed
   * over. `fill` is called for every page of every run in turn, with null for one that was not taken in.
   */
  restore(runs: readonly SavedRun[], fill: (page: number | null) => void): void {
    const nodes: (PrefixNode | null)[] = [];
    for (const { namespace, parent, tokens } of runs) {
      const pages = this.#layout.groups.map(({ lanes, pageTokens }) => {
        return new Int32Array(Math.ceil(tokens.length / pageTokens) * lanes.length);
      });
      const above = namespace === null ? null : parent < 0 ? this.#root(namespace) : nodes[parent]!;
      const isNew =
        above !== null && nearest(above, tokens, 0, tokens.length, this.block).common < this.block;
      if (!isNew || numPages(pages) > this.#pool.numFree || this.#isKnown(above, tokens)) {
        for (let page = numPages(pages); page > 0; page--) fill(null);
        nodes.push(null);
        continue;
      }
      for (const run of pages) {
        this.#pool.take(run);
        for (const page of run) fill(page);
      }
      this.#tokens += tokens.length;
      this.#evictable += numPages(pages);
      nodes.push(this.#add(above, tokens, pages));
    }
    for (const node of nodes.reverse()) if (node) this.#idle.add(node);
    for (const root of [...this.#roots.values()]) this.#forgetRoot(root);
    this.version++;
  }

  /** Pages of so many tokens, whole blocks. */
  pagesOf(tokens: number): number {
    return this.#layout.groups.reduce(
      (pages, { lanes, pageTokens }) => pages + (tokens / pageTokens) * lanes.length,
      0,
    );
  }

  /** What `lease` would find for a prompt. Changes nothing, not even what was used last. */
  find(namespace: string, prompt: Int32Array): Found {
    const root = this.#roots.get(namespace);
    if (!root) return NOTHING;
    const end = this.#walk(root, prompt, 0);
    let used: PrefixNode | null = end.node;
    let depth = end.depth;
    while (used && used.locks === 0) {
      depth -= used.tokens.length;
      used = used.parent;
    }
    if (end.child && end.child.locks > 0) depth += end.whole;
    const promised = this.#promised(end, prompt, null);
    const tokens = end.depth + end.whole + (promised ? 0 : end.part);
    return { tokens, referenced: this.pagesOf(depth), promised };
  }

  /**
   * Takes over into `cache`, which is empty, what there is of a prompt, and lets others share the rest as it is run. Takes
   * no page. Prompts share within a namespace: each adapter, say, has one.
   */
  lease(namespace: string, prompt: Int32Array, cache: SequenceCache): PrefixLease {
    const root = this.#root(namespace);
    root.locks++;
    this.#lookups++;
    this.#lookupTokens += prompt.length;
    return new PrefixLease(this, root, prompt, cache);
  }

  /** Gives up pages that nobody uses, least recently used first, until `count` more are free. */
  reclaim(count: number): boolean {
    const wanted = this.#pool.numFree + count;
    const before = this.#evictedPages;
    for (let missing = count; missing > 0; missing = wanted - this.#pool.numFree) {
      const oldest = this.#idle.values().next();
      if (oldest.done) break;
      this.#giveUp(oldest.value, missing);
    }
    return this.#evictedPages > before;
  }

  /** Gives up all that nobody uses. */
  clear(): void {
    for (const node of [...this.#idle]) this.#giveUp(node, this.#pool.numPages);
  }

  /** Of `PrefixLease`: moves it on through what there is of its prompt; to whole blocks alone unless it `takesParts`. */
  follow(lease: PrefixLease, prompt: Int32Array, takesParts: boolean): Way {
    const { node: from, depth } = lease;
    const end = this.#walk(from, prompt, depth);
    lease.following = this.#promised(end, prompt, lease);
    lease.below = lease.following ? 0 : this.#findBelow(from.namespace, prompt, end.depth + end.whole);
    const to = end.whole > 0 ? this.#split(end.child!, end.whole) : end.node;
    const runs: Pages[] = [];
    for (let node = to; node !== from; node = node.parent!) runs.unshift(node.pages);
    const part = takesParts && !lease.following && lease.below === 0 ? end.part : 0;
    const partPages = part > 0 ? this.#slice(end.child!.pages, 0, part) : this.#none();
    if (part > 0 && this.#idle.delete(end.child!)) this.#idle.add(end.child!);
    this.#moveOn(lease, to, end.depth + end.whole);
    const tokens = lease.depth - depth;
    if (tokens + part > 0 && lease.cached === 0) this.#hits++;
    this.#hitTokens += tokens + part;
    return { tokens, pages: this.#join(runs), part, partPages };
  }

  /** Of `PrefixLease`: what comes next of its prompt and lies below. */
  async readBelow({ node, depth, below }: PrefixLease, prompt: Int32Array): Promise<Uint8Array[]> {
    return (await this.below?.read(node.namespace, prompt, depth, depth + below)) ?? [];
  }

  /**
   * Of `PrefixLease`: puts blocks of its prompt that came from below in their place, for it to take over. `from`: where the
   * first of them stands. Takes pages that the lease's sequence would have taken to run them.
   */
  bring(
    { node, depth }: PrefixLease,
    prompt: Int32Array,
    from: number,
    payloads: readonly Uint8Array[],
  ): void {
    // Meanwhile others may have run some.
    const left = payloads.slice((depth - from) / this.block);
    if (left.length === 0) return;
    const tokens = prompt.slice(depth, depth + left.length * this.block);
    const pages = this.#layout.groups.map(({ lanes, pageTokens }) => {
      return new Int32Array((tokens.length / pageTokens) * lanes.length);
    });
    this.#pool.makeRoom({ taken: numPages(pages), returned: 0 });
    this.#dropBeginning(node, tokens);
    for (const run of pages) this.#pool.take(run);
    for (const [i, payload] of left.entries()) {
      const own = this.#slice(pages, i * this.block, (i + 1) * this.block);
      this.#eachPage(own, (bytes, at) => bytes.set(payload.subarray(at, at + bytes.length)));
    }
    this.#tokens += tokens.length;
    this.#broughtTokens += tokens.length;
    this.#evictable += numPages(pages);
    this.#idle.add(this.#add(node, tokens, pages));
    this.version++;
  }

  /**
   * Of `PrefixLease`: `tokens`, whole blocks that come next to where it stands, lie on `pages`. Where they are here
   * already, `exchange` hears on which pages, from which position on, its sequence shall hold them instead.
   */
  insert(
    lease: PrefixLease,
    tokens: Int32Array,
    pages: Pages,
    exchange: (from: number, pages: Pages) => void,
  ): void {
    let at = 0;
    while (at < tokens.length) {
      const { child, common } = nearest(lease.node, tokens, at, tokens.length, this.block);
      const whole = common - (common % this.block);
      if (!child || whole === 0) break;
      const known = whole < child.tokens.length ? this.#split(child, whole) : child;
      exchange(lease.depth, known.pages);
      this.#moveOn(lease, known, lease.depth + whole);
      at += whole;
    }
    if (at < tokens.length) this.#append(lease, tokens.slice(at), this.#slice(pages, at, tokens.length));
  }

  /** Of `PrefixLease`: it ends. Its last tokens, less than a block, lie on `pages`. */
  end(lease: PrefixLease, tail: Int32Array, pages: Pages): void {
    const { node } = lease;
    node.working.delete(lease);
    if (nearest(node, tail, 0, tail.length, this.block).common < tail.length) {
      this.#dropBeginning(node, tail);
      this.#hold(tail, pages);
      this.#evictable += numPages(pages);
      this.#idle.add(this.#add(node, tail, pages));
    }
    for (let each: PrefixNode | null = node; each; each = each.parent) this.#unlock(each);
    this.version++;
  }

  /** Where a prompt's way ends; its last token must be run, since an answer starts from its logits. */
  #walk(node: PrefixNode, prompt: Int32Array, depth: number): End<PrefixLease> {
    const end = walk(node, prompt, depth, prompt.length - 1, this.block);
    return this.#takesParts ? end : { ...end, part: 0 };
  }

  /** Whether somebody else is about to run the block with which a way goes on. */
  #promised({ node, depth, whole }: End<PrefixLease>, prompt: Int32Array, self: PrefixLease | null): boolean {
    const end = depth + this.block;
    if (whole > 0 || end >= prompt.length) return false;
    for (const other of node.working) {
      if (other !== self && other.runs(prompt)) return true;
    }
    return false;
  }

  /** Lets a lease stand further down; what lies above its present node it has locked. */
  #moveOn(lease: PrefixLease, to: PrefixNode, depth: number): void {
    if (to === lease.node) return;
    lease.node.working.delete(lease);
    for (let node = to; node !== lease.node; node = node.parent!) this.#lock(node);
    lease.node = to;
    lease.depth = depth;
    this.version++;
  }

  /** What nobody has had yet follows a lease's node: in the same edge, where nobody else could mind. */
  #append(lease: PrefixLease, tokens: Int32Array, pages: Pages): void {
    const { node } = lease;
    this.#dropBeginning(node, tokens);
    this.#hold(tokens, pages);
    this.#referenced += numPages(pages);
    if (node.parent && node.children.length === 0 && node.locks === 1) {
      node.tokens = join([node.tokens, tokens]);
      node.pages = this.#join([node.pages, pages]);
    } else {
      node.working.delete(lease);
      lease.node = this.#add(node, tokens, pages);
      lease.node.locks = 1;
    }
    lease.depth += tokens.length;
    this.version++;
  }

  #add(parent: PrefixNode, tokens: Int32Array, pages: Pages): PrefixNode {
    const child = createNode(parent.namespace, parent, tokens, pages);
    enter(child, this.block);
    return child;
  }

  /** A tail that `tokens` begin with says nothing that they do not. */
  #dropBeginning(node: PrefixNode, tokens: Int32Array): void {
    const tail = beginning(node, tokens);
    if (tail) this.#shorten(tail, 0);
  }

  /** Cuts an edge in two after so many tokens; the upper part is new, and who stood at its end stands there still. */
  #split(node: PrefixNode, tokens: number): PrefixNode {
    const upper = createNode(
      node.namespace,
      node.parent,
      node.tokens.slice(0, tokens),
      this.#slice(node.pages, 0, tokens),
    );
    leave(node);
    enter(upper, this.block);
    node.pages = this.#slice(node.pages, tokens, node.tokens.length);
    node.tokens = node.tokens.slice(tokens);
    node.parent = upper;
    upper.children.push(node);
    upper.locks = node.locks;
    if (upper.locks === 0) this.#idle.add(upper);
    return upper;
  }

  #lock(node: PrefixNode): void {
    node.locks++;
    if (!node.parent) return;
    const pages = numPages(node.pages);
    if (node.locks === 1) {
      this.#idle.delete(node);
      this.#evictable -= pages;
      this.#referenced += pages;
    } else if (node.locks === 2) this.#shared += pages;
  }

  #unlock(node: PrefixNode): void {
    node.locks--;
    if (!node.parent) {
      this.#forgetRoot(node);
      return;
    }
    const pages = numPages(node.pages);
    if (node.locks === 0) {
      this.#idle.add(node);
      this.#evictable += pages;
      this.#referenced -= pages;
    } else if (node.locks === 1) this.#shared -= pages;
  }

  /** Gives up the end of an idle leaf: `pages` at least, or all. */
  #giveUp(node: PrefixNode, pages: number): void {
    const blocks = Math.ceil(node.tokens.length / this.block);
    const less = Math.ceil(pages / this.pagesOf(this.block));
    const kept = Math.max(0, blocks - less) * this.block;
    this.#putBelow(node, kept);
    this.#evictedPages += this.#shorten(node, kept);
  }

  /** Copies the end of an idle leaf to where it can be had back from. Tails are not worth a place. */
  #putBelow(node: PrefixNode, from: number): void {
    if (!this.below || node.tokens.length % this.block > 0) return;
    const runs: Int32Array[] = [];
    for (let each: PrefixNode | null = node; each; each = each.parent) runs.unshift(each.tokens);
    const way = join(runs);
    const start = way.length - node.tokens.length;
    const payload = new Uint8Array(this.pagesOf(this.block) * this.#pool.pageBytes);
    this.below.take(node.namespace, way, start + from, (at) => {
      const own = this.#slice(node.pages, at - start, at - start + this.block);
      this.#eachPage(own, (bytes, offset) => payload.set(bytes, offset));
      return payload;
    });
  }

  /** Tokens of a prompt from `from` on, where a block ends, that can be had from below, at a time. */
  #findBelow(namespace: string, prompt: Int32Array, from: number): number {
    const most = Math.max(1, Math.floor(BROUGHT_BYTES / (this.pagesOf(this.block) * this.#pool.pageBytes)));
    // The last token must be run.
    const end = Math.min(prompt.length - 1, from + most * this.block);
    return this.below?.find(namespace, prompt, from, end) ?? 0;
  }

  /** Calls back with the bytes of each page in turn, and how many came before. */
  #eachPage(pages: Pages, visit: (bytes: Uint8Array, at: number) => void): void {
    const { arena, pageBytes } = this.#pool;
    let at = 0;
    for (const run of pages) {
      for (const page of run) {
        visit(arena.bytes(page * pageBytes, pageBytes), at);
        at += pageBytes;
      }
    }
  }

  /** Leaves an idle leaf so many of its tokens; with none it goes. Returns the pages that it no longer holds. */
  #shorten(node: PrefixNode, tokens: number): number {
    const pages = this.#slice(node.pages, tokens, node.tokens.length);
    const count = numPages(pages);
    for (const run of pages) this.#pool.release(run);
    this.#evictable -= count;
    this.#tokens -= node.tokens.length - tokens;
    this.version++;
    if (tokens > 0) {
      node.pages = this.#slice(node.pages, 0, tokens);
      node.tokens = node.tokens.slice(0, tokens);
    } else {
      this.#idle.delete(node);
      leave(node);
      if (!node.parent!.parent) this.#forgetRoot(node.parent!);
    }
    return count;
  }

  /** Whether a run says nothing that a child of `above` does not, or the other way round. */
  #isKnown(above: PrefixNode, tokens: Int32Array): boolean {
    const { common } = nearest(above, tokens, 0, tokens.length, this.block);
    return common === tokens.length || beginning(above, tokens) !== null;
  }

  #root(namespace: string): PrefixNode {
    const root = this.#roots.get(namespace) ?? createNode(namespace, null, new Int32Array(), this.#none());
    this.#roots.set(namespace, root);
    return root;
  }

  #forgetRoot(root: PrefixNode): void {
    if (root.locks === 0 && root.children.length === 0) this.#roots.delete(root.namespace);
  }

  #hold(tokens: Int32Array, pages: Pages): void {
    for (const run of pages) this.#pool.retain(run);
    this.#tokens += tokens.length;
  }

  /** Pages of tokens `from` to `end` of a run, where a block begins at `from`. */
  #slice(pages: Pages, from: number, end: number): Pages {
    return this.#layout.groups.map(({ lanes, pageTokens }, g) => {
      const row = (tokens: number) => Math.ceil(tokens / pageTokens) * lanes.length;
      return pages[g]!.slice(row(from), row(end));
    });
  }

  #join(runs: readonly Pages[]): Pages {
    return this.#layout.groups.map((_, g) => join(runs.map((run) => run[g]!)));
  }

  #none(): Pages {
    return this.#join([]);
  }
}

/**
 * A sequence's hold on the tree: it keeps what the sequence took over from going, and takes in what the sequence runs.
 * Made by `PrefixTree.lease`; ended by `end` or `drop`, before the sequence's cache is disposed.
 */
export class PrefixLease {
  /** Tokens that were taken over. */
  cached = 0;
  /** Somebody else is running what this sequence would run next, so it had better wait and take that over. */
  following = false;
  /** Resolves when what comes next is back from disk, for `follow` to take over. Null: nothing is on its way. */
  coming: Promise<void> | null = null;
  /** Of `PrefixTree`: tokens that come next and lie on disk. */
  below = 0;
  /** Of `PrefixTree`: where the whole blocks of the sequence end, and after how many tokens. */
  node: PrefixNode;
  depth = 0;
  readonly #tree: PrefixTree;
  readonly #prompt: Int32Array;
  readonly #cache: SequenceCache;
  /** Tokens in the cache beyond the last whole block that the tree has, in the first `#numAhead` places. */
  #ahead: Int32Array;
  #numAhead = 0;
  /** What has come back, and from which position on. */
  #back: { readonly from: number; readonly payloads: readonly Uint8Array[] } | null = null;

  constructor(tree: PrefixTree, root: PrefixNode, prompt: Int32Array, cache: SequenceCache) {
    this.#tree = tree;
    this.node = root;
    this.#prompt = prompt;
    this.#cache = cache;
    this.#ahead = new Int32Array(2 * tree.block);
    this.follow();
  }

  /** Pages of the sequence that the tree has. */
  get pages(): number {
    return this.#tree.pagesOf(this.depth);
  }

  /**
   * Takes over what there is by now, and has brought back what lies on disk. At the start, while `following`, and while
   * something is `coming`: not once tokens of its own have run.
   */
  follow(): void {
    if (this.#back) {
      const { from, payloads } = this.#back;
      this.#back = null;
      this.coming = null;
      this.#takeOver(false);
      this.#tree.bring(this, this.#prompt, from, payloads);
    }
    if (this.coming) return;
    this.#takeOver(true);
    if (this.below > 0) this.#bring();
  }

  #bring(): void {
    const from = this.depth;
    this.coming = this.#tree.readBelow(this, this.#prompt).then((payloads) => {
      this.#back = { from, payloads };
    });
  }

  #takeOver(takesParts: boolean): void {
    const { tokens, pages, part, partPages } = this.#tree.follow(this, this.#prompt, takesParts);
    if (tokens > 0) this.#cache.adopt(pages, tokens);
    if (part > 0) {
      this.#cache.adopt(partPages, part);
      this.ran(this.#prompt.subarray(this.depth, this.depth + part));
    }
    this.cached += tokens + part;
    this.#announce();
  }

  /** These tokens come next; a step runs them. */
  ran(tokens: Int32Array): void {
    const needed = this.#numAhead + tokens.length;
    if (needed > this.#ahead.length) {
      const grown = new Int32Array(2 * needed);
      grown.set(this.#ahead.subarray(0, this.#numAhead));
      this.#ahead = grown;
    }
    this.#ahead.set(tokens, this.#numAhead);
    this.#numAhead = needed;
  }

  /** The step is through: what is full by now is there for others. */
  settle(): void {
    const whole = this.#numAhead - (this.#numAhead % this.#tree.block);
    if (whole === 0) return;
    const pages = this.#cache.pagesOf(this.depth, this.depth + whole);
    this.#tree.insert(this, this.#ahead.slice(0, whole), pages, (from, known) => {
      this.#cache.exchange(from, known);
    });
    this.#ahead.copyWithin(0, whole, this.#numAhead);
    this.#numAhead -= whole;
    this.#announce();
  }

  /** Whether the block that it runs next is that of another prompt, too, whose way ends here. */
  runs(prompt: Int32Array): boolean {
    for (let at = this.depth; at < this.depth + this.#tree.block; at++) {
      if (this.#prompt[at] !== prompt[at]) return false;
    }
    return true;
  }

  /** The sequence ends: all that it ran stays for others, as long as nobody needs the pages. */
  end(): void {
    this.settle();
    const tail = this.#ahead.slice(0, this.#numAhead);
    const pages = tail.length > 0 ? this.#cache.pagesOf(this.depth, this.depth + tail.length) : [];
    this.#tree.end(this, tail, pages);
  }

  /** The sequence ends, and what ran since `settle` may not be what it should. */
  drop(): void {
    this.#tree.end(this, new Int32Array(), []);
  }

  /** Says that it runs the next block, where that is all prompt. */
  #announce(): void {
    const { working } = this.node;
    if (!this.following && this.depth + this.#tree.block <= this.#prompt.length) working.add(this);
    else working.delete(this);
    this.#tree.version++;
  }
}

const numPages = (pages: Pages): number => pages.reduce((sum, { length }) => sum + length, 0);

function join(runs: readonly Int32Array[]): Int32Array {
  const all = new Int32Array(runs.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const run of runs) {
    all.set(run, at);
    at += run.length;
  }
  return all;
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}
