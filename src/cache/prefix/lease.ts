import type { PrefixTree } from "../prefix.js";
import type { SequenceCache } from "../sequence.js";
import { Cursor } from "./cursor.js";

/**
 * A sequence's hold on the tree: it keeps what the sequence took over from going, and takes in what the sequence runs.
 * Ended by `end` or `drop`, before the sequence's cache is disposed.
 */
export class PrefixLease {
  /** Tokens that were taken over. */
  cached = 0;
  /** Resolves when what comes next is back from disk, for `follow` to take over. Null: nothing is on its way. */
  coming: Promise<void> | null = null;
  /** Where the whole blocks of the sequence end. */
  readonly cursor: Cursor;
  readonly #tree: PrefixTree;
  readonly #prompt: Int32Array;
  readonly #cache: SequenceCache;
  /** Tokens in the cache beyond the last whole block that the tree has, in the first `#numAhead` places. */
  #ahead: Int32Array;
  #numAhead = 0;
  /** What has come back, and from which position on. */
  #back: { readonly from: number; readonly payloads: readonly Uint8Array[] } | null = null;

  /**
   * Takes over into `cache`, which is empty, what there is of a prompt, and lets others share the rest as it is run. Takes
   * no page.
   */
  constructor(tree: PrefixTree, namespace: string, prompt: Int32Array, cache: SequenceCache) {
    this.#tree = tree;
    this.cursor = new Cursor(tree, namespace, prompt);
    this.#prompt = prompt;
    this.#cache = cache;
    this.#ahead = new Int32Array(2 * tree.block);
    this.follow();
  }

  /** Somebody else is running what this sequence would run next, so it had better wait and take that over. */
  get following(): boolean {
    return this.cursor.following;
  }

  /** Pages of the sequence that the tree has. */
  get pages(): number {
    return this.#tree.pages.count(this.cursor.depth);
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
      this.cursor.bring(from, payloads);
    }
    if (this.coming) return;
    this.#takeOver(true);
    if (this.cursor.below > 0) this.#bring();
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
    const { depth } = this.cursor;
    const pages = this.#cache.pagesOf(depth, depth + whole);
    this.cursor.insert(this.#ahead.slice(0, whole), pages, (from, known) => {
      this.#cache.exchange(from, known);
    });
    this.#ahead.copyWithin(0, whole, this.#numAhead);
    this.#numAhead -= whole;
    this.cursor.announce();
  }

  /** The sequence ends: all that it ran stays for others, as long as nobody needs the pages. */
  end(): void {
    this.settle();
    const { depth } = this.cursor;
    const tail = this.#ahead.slice(0, this.#numAhead);
    this.cursor.end(tail, tail.length > 0 ? this.#cache.pagesOf(depth, depth + tail.length) : []);
  }

  /** The sequence ends, and what ran since `settle` may not be what it should. */
  drop(): void {
    this.cursor.end(new Int32Array(), []);
  }

  #takeOver(takesParts: boolean): void {
    const { tokens, pages, part, partPages } = this.cursor.follow(takesParts);
    if (tokens > 0) this.#cache.adopt(pages, tokens);
    if (part > 0) {
      const { depth } = this.cursor;
      this.#cache.adopt(partPages, part);
      this.ran(this.#prompt.subarray(depth, depth + part));
    }
    this.cached += tokens + part;
    this.cursor.announce();
  }

  #bring(): void {
    const from = this.cursor.depth;
    this.coming = this.cursor.readBelow().then((payloads) => {
      this.#back = { from, payloads };
    });
  }
}
