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
  next: KvView | null = null;
  readonly received: Mass | null;
  readonly counted: SlotValues | null;
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
    const counts = group.policy.merges || group.policy.selects;
    this.counted = counts ? new SlotValues(backend, 1, this.pageTokens, maxRows) : null;
  }

  get mass(): KvMass | null {
    return this.received;
  }

  get logCounts(): Region | null {
    return this.counted?.region ?? null;
  }

  /** What is kept by slot beside positions. */
  get values(): readonly SlotValues[] {
    return [this.received, this.counted].filter((each) => each !== null);
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
    for (const values of this.values) values.reserve(maxRows);
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
    if (other.counted) this.counted?.copyFrom(other.counted);
  }

  dispose(): void {
    this.region.free();
    for (const values of this.values) values.dispose();
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

/** A number for each slot of each lane in backend memory: f32 [lanes, rows x pageTokens]. Zero at first. */
export class SlotValues {
  region: Region;
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
    const run = this.#pageTokens;
    this.eachLane((values) => values.copyWithin(to * run, from * run, (from + 1) * run));
  }

  moveSlot(from: number, to: number): void {
    this.eachLane((values) => {
      values[to] = values[from]!;
    });
  }

  clear(slot: number): void {
    this.eachLane((values) => {
      values[slot] = 0;
    });
  }

  /** Calls `act` with the values of every lane, [slots]. */
  eachLane(act: (values: Float32Array) => void): void {
    const values = this.values();
    for (let at = 0; at < values.length; at += this.#width) act(values.subarray(at, at + this.#width));
  }

  copyFrom(other: SlotValues): void {
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

/** Attention mass that slots received. */
export class Mass extends SlotValues implements KvMass {
  from = 0;
  tempered: Tempered | null = null;

  /** Adds what some slots received to what another did. */
  gather(slots: ArrayLike<number>, into: number): void {
    this.eachLane((values) => {
      for (let i = 0; i < slots.length; i++) values[into]! += values[slots[i]!]!;
    });
  }
}

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;
