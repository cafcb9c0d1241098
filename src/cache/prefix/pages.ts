import type { CacheLayout } from "../layout.js";
import type { KvPool } from "../pool.js";
import type { Pages } from "./node.js";

/** Tokens of a block: of whole rows in every table of the layout. Null where caches so cut cannot share prefixes. */
export function blockTokens({ groups }: CacheLayout): number | null {
  if (!groups.every(({ policy }) => policy.keepsAll)) return null;
  return groups.reduce((block, { pageTokens }) => (block * pageTokens) / commonDivisor(block, pageTokens), 1);
}

/** The pages of runs of tokens: how many, which, and what lies on them. All runs begin where a block does. */
export class PrefixPages {
  readonly block: number;
  /** Whether a block is one row of every table. */
  readonly isRow: boolean;
  /** Bytes of a block's pages. */
  readonly blockBytes: number;
  readonly #pool: KvPool;
  readonly #groups: CacheLayout["groups"];

  constructor(pool: KvPool, { groups }: CacheLayout, block: number) {
    this.block = block;
    this.isRow = groups.every(({ pageTokens }) => pageTokens === block);
    this.#pool = pool;
    this.#groups = groups;
    this.blockBytes = this.count(block) * pool.pageBytes;
  }

  /** Pages of the pool that nobody holds. */
  get numFree(): number {
    return this.#pool.numFree;
  }

  /** Pages of so many tokens. */
  count(tokens: number): number {
    let pages = 0;
    for (const { lanes, pageTokens } of this.#groups) pages += Math.ceil(tokens / pageTokens) * lanes.length;
    return pages;
  }

  /** Those of tokens `from`, where a block begins, to `end` of a run. */
  slice(pages: Pages, from: number, end: number): Pages {
    return this.#groups.map(({ lanes, pageTokens }, g) => {
      const row = (tokens: number) => Math.ceil(tokens / pageTokens) * lanes.length;
      return pages[g]!.slice(row(from), row(end));
    });
  }

  /** Those of runs that follow each other. */
  join(runs: readonly Pages[]): Pages {
    return this.#groups.map((_, g) => join(runs.map((run) => run[g]!)));
  }

  /** Has pages given up that nobody needs, where fewer are free than so many tokens take. */
  makeRoom(tokens: number): void {
    this.#pool.makeRoom({ taken: this.count(tokens), returned: 0 });
  }

  /** Fresh pages for so many tokens, held once. Throws OUT_OF_BUDGET. */
  take(tokens: number): Pages {
    return this.#groups.map(({ lanes, pageTokens }) => {
      const run = new Int32Array(Math.ceil(tokens / pageTokens) * lanes.length);
      this.#pool.take(run);
      return run;
    });
  }

  /** Holds pages once more. */
  retain(pages: Pages): void {
    for (const run of pages) this.#pool.retain(run);
  }

  release(pages: Pages): void {
    for (const run of pages) this.#pool.release(run);
  }

  /** Calls back with the bytes of each page in turn, and how many came before. */
  each(pages: Pages, visit: (bytes: Uint8Array, at: number) => void): void {
    const { arena, pageBytes } = this.#pool;
    let at = 0;
    for (const run of pages) {
      for (const page of run) {
        visit(arena.bytes(page * pageBytes, pageBytes), at);
        at += pageBytes;
      }
    }
  }
}

export const numPages = (pages: Pages): number => pages.reduce((sum, { length }) => sum + length, 0);

/** One after another. */
export function join(runs: readonly Int32Array[]): Int32Array {
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
