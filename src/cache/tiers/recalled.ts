import type { KvView } from "../../backends/contract.js";
import type { CacheGroup } from "../layout.js";
import { full } from "../policies/full.js";
import type { KvPool } from "../pool.js";
import type { Rotations } from "../rotations.js";
import { TableView } from "../view.js";
import { blockBytes } from "./summary.js";

/** A block that is lent back: its tokens' positions and its keys and values, lane after lane. */
export interface LentBlock {
  readonly serial: number;
  readonly positions: Int32Array;
  /** How many tokens each stands for. */
  readonly counts: Int32Array;
  readonly pages: Uint8Array;
}

/** One lent block among the others. */
interface Row {
  readonly serial: number;
  readonly positions: Int32Array;
  /** Its newest token's. */
  readonly last: number;
}

const EMPTY = -1;

/**
 * The page table of the blocks that one group has been lent, attended after the group's own table. Each block has a
 * row to itself and so an offset of its own; rows lie in order of time. Nothing is ever added to it.
 */
export class RecalledTable {
  readonly #pool: KvPool;
  readonly #group: CacheGroup;
  readonly #view: TableView;
  #rows: Row[] = [];

  /** Throws OUT_OF_BUDGET where the backend has no memory for a table of `maxBlocks`. */
  constructor(pool: KvPool, group: CacheGroup, maxBlocks: number) {
    this.#pool = pool;
    this.#group = group;
    const { merges = false } = group.policy;
    const policy = { ...full(), merges };
    this.#view = new TableView(pool.backend, { ...group, policy, thin: null }, maxBlocks);
  }

  get view(): KvView {
    return this.#view;
  }

  get maxBlocks(): number {
    return this.#view.maxRows;
  }

  get tokens(): number {
    return this.#rows.reduce((sum, { positions }) => sum + positions.length, 0);
  }

  get serials(): readonly number[] {
    return this.#rows.map(({ serial }) => serial);
  }

  /** Original positions of all tokens, ascending. */
  get positions(): Int32Array {
    return Int32Array.from(this.#rows.flatMap(({ positions }) => [...positions])).sort();
  }

  /** Bytes of the table itself, pages not counted. */
  get tableBytes(): number {
    return this.#view.region.byteLength + (this.#view.logCounts?.byteLength ?? 0);
  }

  /** Lends these blocks instead of those before. Throws OUT_OF_BUDGET, with none lent, where the pool has no pages. */
  load(blocks: readonly LentBlock[]): void {
    this.clear();
    const { lanes, pageTokens } = this.#group;
    const pages = new Int32Array(blocks.length * lanes.length);
    this.#pool.take(pages);
    const sorted = blocks
      .map((block) => ({ ...block, last: block.positions.reduce((a, b) => Math.max(a, b), EMPTY) }))
      .sort((a, b) => a.last - b.last);
    const bytes = blockBytes(this.#group);
    const at = this.#view.positions();
    for (const [row, block] of sorted.entries()) {
      at.fill(EMPTY, row * pageTokens, (row + 1) * pageTokens);
      at.set(block.positions, row * pageTokens);
      for (let lane = 0; lane < lanes.length; lane++) {
        const page = pages[row * lanes.length + lane]!;
        const part = block.pages.subarray(lane * bytes, (lane + 1) * bytes);
        this.#pool.arena.bytes(page * this.#pool.pageBytes, part.length).set(part);
      }
    }
    this.#view.pageIds().set(pages);
    this.#view.rotations().fill(EMPTY, 0, sorted.length);
    this.#view.numPages = sorted.length;
    this.#count(sorted);
    this.#rows = sorted.map(({ serial, positions, last }) => ({ serial, positions, last }));
  }

  /** Gives all pages back. */
  clear(): void {
    this.#pool.release(this.#pages());
    this.#view.numPages = 0;
    this.#rows = [];
  }

  /**
   * Moves each block so that together they end just before position `start` with no holes between them. A block with
   * holes keeps its own distances: its last token is where it should be, older ones reach further back.
   */
  place(start: number, rotations: Rotations): void {
    const at = this.#view.rotations();
    let end = start;
    for (let row = this.#rows.length - 1; row >= 0; row--) {
      const { last, positions } = this.#rows[row]!;
      const offset = end - 1 - last;
      at[row] = offset === 0 ? EMPTY : rotations.rowOf(-offset);
      end -= positions.length;
    }
  }

  /** A table with the same blocks on the same pages, which neither ever writes to. */
  fork(): RecalledTable {
    const fork = new RecalledTable(this.#pool, this.#group, this.maxBlocks);
    fork.#view.copyFrom(this.#view);
    fork.#rows = this.#rows;
    this.#pool.retain(this.#pages());
    return fork;
  }

  dispose(): void {
    this.clear();
    this.#view.dispose();
  }

  #count(blocks: readonly LentBlock[]): void {
    const { counted, pageTokens } = this.#view;
    if (!counted) return;
    counted.resize(blocks.length);
    const values = counted.values();
    for (const [row, { counts }] of blocks.entries()) {
      values.set(Float32Array.from(counts, Math.log), row * pageTokens);
    }
  }

  #pages(): Int32Array {
    return this.#view.pageIds().subarray(0, this.#rows.length * this.#group.lanes.length);
  }
}
