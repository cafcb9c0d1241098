import type { PrefixNode, PrefixTree, Runner } from "../prefix.js";
import { findBelow } from "./below.js";
import { nearest, type Pages } from "./node.js";

/** What a cursor went on through: whole blocks, and then `part` tokens of one more. */
export interface Way {
  readonly tokens: number;
  readonly pages: Pages;
  readonly part: number;
  readonly partPages: Pages;
}

/** Where a sequence stands in the tree: at the end of its whole blocks. It keeps all above from being given up. */
export class Cursor implements Runner {
  node: PrefixNode;
  /** Tokens down to there. */
  depth = 0;
  /** Somebody else is running what this sequence would run next. */
  following = false;
  /** Tokens that come next and lie below the tree. */
  below = 0;
  readonly #tree: PrefixTree;
  readonly #prompt: Int32Array;
  /** Whether it has found something. */
  #hasHit = false;

  constructor(tree: PrefixTree, namespace: string, prompt: Int32Array) {
    this.#tree = tree;
    this.#prompt = prompt;
    this.node = tree.root(namespace);
    tree.lock(this.node);
    tree.counters.lookups++;
    tree.counters.lookupTokens += prompt.length;
  }

  /** Moves on through what there is of the prompt; to whole blocks alone unless it `takesParts`. */
  follow(takesParts: boolean): Way {
    const { node: from, depth } = this;
    const { pages, below, counters } = this.#tree;
    const end = this.#tree.walk(from, this.#prompt, depth);
    this.following = this.#tree.isPromised(end, this.#prompt, this);
    const known = end.depth + end.whole;
    this.below = this.following || !below ? 0 : findBelow(below, from.namespace, this.#prompt, known, pages);
    const to = end.whole > 0 ? this.#tree.split(end.child!, end.whole) : end.node;
    const runs: Pages[] = [];
    for (let node = to; node !== from; node = node.parent!) runs.unshift(node.pages);
    const part = takesParts && !this.following && this.below === 0 ? end.part : 0;
    const partPages = part > 0 ? pages.slice(end.child!.pages, 0, part) : [];
    if (part > 0) this.#tree.touch(end.child!);
    this.#moveTo(to, known);
    const tokens = known - depth;
    if (tokens + part > 0 && !this.#hasHit) {
      this.#hasHit = true;
      counters.hits++;
    }
    counters.hitTokens += tokens + part;
    return { tokens, pages: pages.join(runs), part, partPages };
  }

  /** Payloads of the blocks that come next and lie below. */
  async readBelow(): Promise<Uint8Array[]> {
    const { node, depth, below } = this;
    return (await this.#tree.below?.read(node.namespace, this.#prompt, depth, depth + below)) ?? [];
  }

  /**
   * Puts blocks of the prompt that came from below in their place, for `follow` to go on through. `from`: where the first
   * of them stands. Takes pages that the sequence would have taken to run them.
   */
  bring(from: number, payloads: readonly Uint8Array[]): void {
    const { node, depth } = this;
    const { block, pages, counters } = this.#tree;
    // Meanwhile others may have run some.
    const left = payloads.slice((depth - from) / block);
    if (left.length === 0) return;
    const tokens = this.#prompt.slice(depth, depth + left.length * block);
    pages.makeRoom(tokens.length);
    this.#tree.dropBeginning(node, tokens);
    const taken = pages.take(tokens.length);
    for (const [i, payload] of left.entries()) {
      const own = pages.slice(taken, i * block, (i + 1) * block);
      pages.each(own, (bytes, at) => bytes.set(payload.subarray(at, at + bytes.length)));
    }
    this.#tree.addUnused(node, tokens, taken);
    counters.broughtTokens += tokens.length;
  }

  /**
   * `tokens`, whole blocks that come next, lie on `pages`. Where they are here already, `exchange` hears on which pages, from
   * which position on, the sequence shall hold them instead.
   */
  insert(tokens: Int32Array, pages: Pages, exchange: (from: number, pages: Pages) => void): void {
    const { block } = this.#tree;
    let at = 0;
    while (at < tokens.length) {
      const { child, common } = nearest(this.node, tokens, at, tokens.length, block);
      const whole = common - (common % block);
      if (!child || whole === 0) break;
      const known = whole < child.tokens.length ? this.#tree.split(child, whole) : child;
      exchange(this.depth, known.pages);
      this.#moveTo(known, this.depth + whole);
      at += whole;
    }
    if (at < tokens.length) this.#append(tokens.slice(at), this.#tree.pages.slice(pages, at, tokens.length));
  }

  /** The sequence ends. Its last tokens, less than a block, lie on `pages`. */
  end(tail: Int32Array, pages: Pages): void {
    const { node } = this;
    node.working.delete(this);
    if (nearest(node, tail, 0, tail.length, this.#tree.block).common < tail.length) {
      this.#tree.dropBeginning(node, tail);
      this.#tree.pages.retain(pages);
      this.#tree.addUnused(node, tail, pages);
    }
    for (let each: PrefixNode | null = node; each; each = each.parent) this.#tree.unlock(each);
  }

  runs(prompt: Int32Array): boolean {
    for (let at = this.depth; at < this.depth + this.#tree.block; at++) {
      if (this.#prompt[at] !== prompt[at]) return false;
    }
    return true;
  }

  /** Says that the sequence runs the next block, where that is all prompt. */
  announce(): void {
    const { working } = this.node;
    if (!this.following && this.depth + this.#tree.block <= this.#prompt.length) working.add(this);
    else working.delete(this);
    this.#tree.version++;
  }

  /** Stands further down from now on; what lies above its present node it has locked. */
  #moveTo(node: PrefixNode, depth: number): void {
    if (node === this.node) return;
    this.node.working.delete(this);
    for (let each = node; each !== this.node; each = each.parent!) this.#tree.lock(each);
    this.node = node;
    this.depth = depth;
  }

  /** What nobody has had yet follows the node: in the same edge, where nobody else could mind. */
  #append(tokens: Int32Array, pages: Pages): void {
    const { node } = this;
    this.#tree.dropBeginning(node, tokens);
    this.#tree.pages.retain(pages);
    if (node.parent && node.children.length === 0 && node.locks === 1) {
      this.#tree.extend(node, tokens, pages);
    } else {
      node.working.delete(this);
      this.node = this.#tree.addUsed(node, tokens, pages);
    }
    this.depth += tokens.length;
  }
}
