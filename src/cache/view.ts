import type { Backend, KvMass, KvView, Region, Tempered } from "../backends/contract.js";
import type { CodecName } from "./codecs/contract.js";
import type { CacheGroup } from "./layout.js";

/** A page table in backend memory, as kernels read it. The object lives as long as its table and is updated in place. */
export class TableView implements KvView {
  readonly codec: CodecName;
  readonly lanes: number;
  readonly pageTokens: number;
  numPages = 0;
  region: Region;
  pageIdsAt = 0;
  positionsAt = 0;
  rotationsAt = 0;
  readonly logCounts = null;
  next: KvView | null = null;
  readonly received: Mass | null;
  /** Rows for which there is room. */
  maxRows: number;
  readonly #backend: Backend;

  constructor(backend: Backend, group: CacheGroup, maxRows: number) {
    this.codec = group.codec;
    this.lanes = group.lanes.length;
    this.pageTokens = group.pageTokens;
    this.maxRows = maxRows;
    this.#backend = backend;
    this.region = this.#cut();
    this.received = group.policy.mass ? new Mass(backend, this.lanes, this.pageTokens, maxRows) : null;
  }

  get mass(): KvMass | null {
    return this.received;
  }

  pageIds(): Int32Array {
    return this.region.int32(this.pageIdsAt, this.maxRows * this.lanes);
  }

  positions(): Int32Array {
    return this.region.int32(this.positionsAt, this.maxRows * this.pageTokens);
  }

  rotations(): Int32Array {
    return this.region.int32(this.rotationsAt, this.maxRows);
  }

  /** Makes room for `maxRows` rows, contents kept. Throws OUT_OF_BUDGET, with nothing changed. */
  grow(maxRows: number): void {
    this.received?.reserve(maxRows);
    const old = {
      region: this.region,
      ids: this.pageIds(),
      at: this.positions(),
      rotations: this.rotations(),
    };
    const oldRows = this.maxRows;
    this.maxRows = maxRows;
    try {
      this.region = this.#cut();
    } catch (error) {
      this.maxRows = oldRows;
      throw error;
    }
    this.pageIds().set(old.ids);
    this.positions().set(old.at);
    this.rotations().set(old.rotations);
    old.region.free();
  }

  /** Takes over the contents of a view of the same group and size. */
  copyFrom(other: TableView): void {
    this.region.bytes().set(other.region.bytes());
    this.numPages = other.numPages;
    if (other.received) this.received?.copyFrom(other.received);
  }

  dispose(): void {
    this.region.free();
    this.received?.dispose();
  }

  #cut(): Region {
    const idBytes = align(this.maxRows * this.lanes * 4);
    const positionBytes = this.maxRows * this.pageTokens * 4;
    const region = this.#backend.allocate(idBytes + positionBytes + this.maxRows * 4);
    this.positionsAt = idBytes;
    this.rotationsAt = idBytes + positionBytes;
    return region;
  }
}

/** Attention mass that slots received: f32 [lanes, rows x pageTokens]. */
export class Mass implements KvMass {
  region: Region;
  from = 0;
  tempered: Tempered | null = null;
  #rows = 0;
  #maxRows: number;
  readonly #backend: Backend;
  readonly #lanes: number;
  readonly #pageTokens: number;

  constructor(backend: Backend, lanes: number, pageTokens: number, maxRows: number) {
    this.#backend = backend;
    this.#lanes = lanes;
    this.#pageTokens = pageTokens;
    this.#maxRows = maxRows;
    this.region = backend.allocate(lanes * maxRows * pageTokens * 4);
  }

  /** All values, by lane and slot. */
  values(): Float32Array {
    return this.region.float32(0, this.#lanes * this.#width);
  }

  /** Sum over the lanes, [slots]. */
  total(): Float32Array {
    const width = this.#width;
    const values = this.values();
    const total = values.slice(0, width);
    for (let lane = 1; lane < this.#lanes; lane++) {
      for (let slot = 0; slot < width; slot++) total[slot] = total[slot]! + values[lane * width + slot]!;
    }
    return total;
  }

  reserve(maxRows: number): void {
    if (maxRows <= this.#maxRows) return;
    const grown = this.#backend.allocate(this.#lanes * maxRows * this.#pageTokens * 4);
    grown.float32(0, this.#lanes * this.#width).set(this.values());
    this.region.free();
    this.region = grown;
    this.#maxRows = maxRows;
  }

  /** Spreads the lanes for another number of rows; new rows are zero. */
  resize(rows: number): void {
    if (rows === this.#rows) return;
    const from = this.#width;
    const to = rows * this.#pageTokens;
    this.#rows = rows;
    const all = this.region.float32(0, this.#lanes * Math.max(from, to));
    const move = (lane: number) => {
      all.copyWithin(lane * to, lane * from, lane * from + Math.min(from, to));
      if (to > from) all.fill(0, lane * to + from, (lane + 1) * to);
    };
    if (to > from) for (let lane = this.#lanes - 1; lane >= 0; lane--) move(lane);
    else for (let lane = 0; lane < this.#lanes; lane++) move(lane);
  }

  moveRow(from: number, to: number): void {
    const values = this.values();
    const run = this.#pageTokens;
    for (let at = 0; at < values.length; at += this.#width) {
      values.copyWithin(at + to * run, at + from * run, at + (from + 1) * run);
    }
  }

  moveSlot(from: number, to: number): void {
    const values = this.values();
    for (let at = 0; at < values.length; at += this.#width) values[at + to] = values[at + from]!;
  }

  clear(slot: number): void {
    const values = this.values();
    for (let at = 0; at < values.length; at += this.#width) values[at + slot] = 0;
  }

  copyFrom(other: Mass): void {
    this.#rows = other.#rows;
    this.values().set(other.values());
  }

  dispose(): void {
    this.region.free();
  }

  get #width(): number {
    return this.#rows * this.#pageTokens;
  }
}

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;
