import type { Backend, Region } from "../backends/contract.js";
import { MillraceError } from "../errors.js";

export interface PoolUsage {
  readonly pages: number;
  readonly free: number;
  readonly used: number;
  /** Used pages that more than one sequence holds. */
  readonly shared: number;
  /** Most pages ever used at once. */
  readonly peak: number;
  readonly pageBytes: number;
}

/** Who holds pages that it can do without. */
export interface Reclaimer {
  /** Gives pages up until `count` more are free, or nothing is left to give up. Returns whether it gave any up. */
  reclaim(count: number): boolean;
}

/**
 * All pages of a model's caches: one region of backend memory, allocated once, cut into pages of equal size that are
 * reference-counted. Its size is the hard budget: no page exists outside it. Where several models share a memory, pages are
 * taken out of use and put to use again; then `limit` is the budget of the moment.
 */
export class KvPool implements Disposable {
  readonly arena: Region;
  readonly pageBytes: number;
  readonly numPages: number;
  readonly backend: Backend;
  /** Free page numbers; the next to be taken stands last. */
  readonly #free: Int32Array;
  #numFree: number;
  /** Pages that are out of use. */
  readonly #retired: number[] = [];
  readonly #references: Int32Array;
  /** Is asked for pages before any is refused. */
  reclaimer: Reclaimer | null = null;
  /** Pages from this one on were never taken: still zero as the backend gave them. */
  #untouched = 0;
  #shared = 0;
  #peak = 0;

  /**
   * Takes as many pages as fit `budgetBytes`. Throws OUT_OF_BUDGET where not even one fits, INVALID_ARGUMENT for
   * sizes that are none.
   */
  constructor(backend: Backend, options: { readonly pageBytes: number; readonly budgetBytes: number }) {
    const { pageBytes, budgetBytes } = options;
    if (!Number.isSafeInteger(pageBytes) || pageBytes <= 0 || pageBytes % 64 !== 0) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `A page of ${pageBytes} bytes; a multiple of 64 is wanted.`,
      );
    }
    if (!(budgetBytes >= 0) || !Number.isFinite(budgetBytes)) {
      throw new MillraceError("INVALID_ARGUMENT", `A cache budget of ${budgetBytes} bytes; give a size.`);
    }
    const numPages = Math.floor(budgetBytes / pageBytes);
    if (numPages === 0) {
      throw new MillraceError(
        "OUT_OF_BUDGET",
        `A cache of ${budgetBytes} bytes cannot hold one page of ${pageBytes}; give it more.`,
        { budgetBytes, pageBytes },
      );
    }
    this.backend = backend;
    this.pageBytes = pageBytes;
    this.numPages = numPages;
    this.arena = backend.allocate(numPages * pageBytes);
    this.#references = new Int32Array(numPages);
    this.#free = Int32Array.from({ length: numPages }, (_, i) => numPages - 1 - i);
    this.#numFree = numPages;
  }

  get numFree(): number {
    return this.#numFree;
  }

  /** Memory of pages that were used can be given back to the system. */
  get canDiscard(): boolean {
    const { discard } = this.arena;
    return discard !== undefined && this.pageBytes % discard.unit === 0;
  }

  /** Pages that may be used. */
  get limit(): number {
    return this.numPages - this.#retired.length;
  }

  /**
   * Takes up to `count` free pages out of use and gives their memory back to the system; returns how many. Where the
   * backend cannot give memory back, only pages that were never used: the others would still take room.
   */
  retire(count: number): number {
    const { canDiscard } = this;
    let [kept, left] = [0, count];
    for (let i = 0; i < this.#numFree; i++) {
      const page = this.#free[i]!;
      const isTouched = page < this.#untouched;
      if (left === 0 || (isTouched && !canDiscard)) {
        this.#free[kept++] = page;
        continue;
      }
      if (isTouched) this.arena.discard!.pages(page * this.pageBytes, this.pageBytes);
      this.#retired.push(page);
      left--;
    }
    this.#numFree = kept;
    return count - left;
  }

  /** Puts up to `count` pages to use that `retire` took out. */
  issue(count: number): void {
    for (const page of this.#retired.splice(Math.max(0, this.#retired.length - count))) {
      this.#free[this.#numFree++] = page;
    }
  }

  usage(): PoolUsage {
    const { limit, pageBytes } = this;
    const used = limit - this.#numFree;
    return { pages: limit, free: this.#numFree, used, shared: this.#shared, peak: this.#peak, pageBytes };
  }

  /**
   * Throws OUT_OF_BUDGET, with the numbers, unless `needed` pages could be taken once `returned` more have come
   * back. Takes nothing.
   */
  require(needed: number, returned = 0): void {
    if (needed <= this.#numFree + returned) return;
    const free = this.#numFree + returned;
    throw new MillraceError(
      "OUT_OF_BUDGET",
      `The cache needs ${needed} more pages (${needed * this.pageBytes} bytes) and ${free} of ${this.limit} are ` +
        `free; end other sequences, choose a policy that keeps less, or raise the cache budget.`,
      { needed, free, pages: this.numPages, pageBytes: this.pageBytes },
    );
  }

  /**
   * Has pages given up that nobody needs, where fewer are free than will be taken. Returns whether any were: who else
   * held them may now hold them alone.
   */
  makeRoom({ taken, returned }: { readonly taken: number; readonly returned: number }): boolean {
    const short = taken - returned - this.#numFree;
    return short > 0 && this.reclaimer !== null && this.reclaimer.reclaim(short);
  }

  /** Fills `into` with fresh pages, zeroed and held once. Throws OUT_OF_BUDGET before taking any. */
  take(into: Int32Array): void {
    this.require(into.length);
    for (let i = 0; i < into.length; i++) {
      const page = this.#free[--this.#numFree]!;
      this.#references[page] = 1;
      into[i] = page;
      if (page >= this.#untouched) this.#untouched = page + 1;
      // Else empty slots could hold another codec's bits, which may read as NaN.
      else this.arena.bytes(page * this.pageBytes, this.pageBytes).fill(0);
    }
    this.#peak = Math.max(this.#peak, this.limit - this.#numFree);
  }

  retain(pages: Int32Array): void {
    for (const page of pages) {
      const references = this.#held(page);
      if (references === 1) this.#shared++;
      this.#references[page] = references + 1;
    }
  }

  /** Throws INTERNAL for a page that nobody holds. */
  release(pages: Int32Array): void {
    for (const page of pages) {
      const references = this.#held(page) - 1;
      this.#references[page] = references;
      if (references === 1) this.#shared--;
      if (references === 0) this.#free[this.#numFree++] = page;
    }
  }

  isShared(page: number): boolean {
    return this.#held(page) > 1;
  }

  /** Replaces the shared pages in `pages` by copies held once (copy-on-write). Throws OUT_OF_BUDGET, changing none. */
  unshare(pages: Int32Array): void {
    const copies = new Int32Array(pages.length);
    this.take(copies);
    for (let i = 0; i < pages.length; i++) {
      const from = pages[i]! * this.pageBytes;
      this.backend.copy(this.arena, from, this.arena, copies[i]! * this.pageBytes, this.pageBytes);
    }
    this.release(pages);
    pages.set(copies);
  }

  dispose(): void {
    this.arena.free();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #held(page: number): number {
    const references = this.#references[page];
    if (references === undefined || references === 0) {
      throw new MillraceError("INTERNAL", `Page ${page} of ${this.numPages} is not held by anyone.`, {
        page,
      });
    }
    return references;
  }
}
