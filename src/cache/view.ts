import type {
  Backend,
  ChoiceRule,
  KvChoice,
  KvMass,
  KvQueries,
  KvThin,
  KvView,
  Region,
  Tempered,
} from "../backends/contract.js";
import type { CodecName } from "./codecs/contract.js";
import type { CacheGroup } from "./layout.js";

/** A position beyond all. */
export const NEVER = 2 ** 31 - 1;

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
  readonly thin: ThinRows | null;
  readonly measured: QuerySums | null;
  readonly choice: Choice | null;
  /** Rows for which there is room. */
  maxRows: number;
  readonly #backend: Backend;

  constructor(backend: Backend, group: CacheGroup, maxRows: number) {
    this.codec = group.codec;
    this.lanes = group.lanes.length;
    // Slots of a row are as many as the tokens of its pages at most: those of thin rows, where there are any.
    this.pageTokens = group.thin?.pageTokens ?? group.pageTokens;
    this.maxRows = maxRows;
    this.#backend = backend;
    this.region = this.#cut();
    this.received = group.policy.mass ? new Mass(backend, this.lanes, this.pageTokens, maxRows) : null;
    this.counted = group.policy.merges ? new SlotValues(backend, 1, this.pageTokens, maxRows) : null;
    const { chooses } = group.policy;
    const width = this.lanes * group.headWidth;
    this.choice = chooses ? new Choice(backend, chooses, width, this.pageTokens, maxRows) : null;
    this.thin = group.thin ? new ThinRows(backend, this.lanes, group.thin.keyWidth, maxRows) : null;
    this.measured = group.thin ? new QuerySums(backend, this.lanes, group.headWidth) : null;
  }

  get queries(): KvQueries | null {
    return this.measured?.from === NEVER ? null : this.measured;
  }

  get mass(): KvMass | null {
    return this.received;
  }

  get logCounts(): Region | null {
    return this.counted?.region ?? null;
  }

  /** Bytes of backend memory, pages not counted. */
  get byteLength(): number {
    const parts = [...this.values, this.thin, this.measured].map((each) => each?.region);
    const regions = [this.region, ...parts, this.choice?.chooser];
    return regions.reduce((sum, region) => sum + (region?.byteLength ?? 0), 0);
  }

  /** What is kept by slot beside positions. */
  get values(): readonly SlotValues[] {
    return [this.received, this.counted, this.choice?.slots ?? null].filter((each) => each !== null);
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
    this.thin?.reserve(maxRows);
    // Copies, since what is allocated may move the memory.
    const old = {
      region: this.region,
      ids: this.pageIds().slice(),
      at: this.positions().slice(),
      rotations: this.rotations().slice(),
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
    if (other.thin) this.thin?.copyFrom(other.thin);
    if (other.measured) this.measured?.copyFrom(other.measured);
    if (other.choice) this.choice?.copyFrom(other.choice);
  }

  dispose(): void {
    this.region.free();
    for (const values of this.values) values.dispose();
    this.thin?.region.free();
    this.measured?.region.free();
    this.choice?.chooser.free();
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

/** A number for each slot of each lane in backend memory: f32 (or int32) [lanes, rows x pageTokens]. Zero at first. */
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

  /** The same as whole numbers. What moves them goes by these: not every pattern of bits is a float that stays itself. */
  words(): Int32Array {
    return this.region.int32(0, this.#lanes * this.#width);
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
    grown.int32(0, this.#lanes * this.#width).set(this.words());
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
    const all = this.region.int32(0, this.#lanes * Math.max(from, to));
    const move = (lane: number) => {
      all.copyWithin(lane * to, lane * from, lane * from + Math.min(from, to));
      if (to > from) all.fill(0, lane * to + from, (lane + 1) * to);
    };
    if (to > from) for (let lane = this.#lanes - 1; lane >= 0; lane--) move(lane);
    else for (let lane = 0; lane < this.#lanes; lane++) move(lane);
  }

  moveRow(from: number, to: number): void {
    const run = this.#pageTokens;
    this.#eachLane((words) => words.copyWithin(to * run, from * run, (from + 1) * run));
  }

  moveSlot(from: number, to: number): void {
    this.#eachLane((words) => {
      words[to] = words[from]!;
    });
  }

  clear(slot: number): void {
    this.#eachLane((words) => {
      words[slot] = 0;
    });
  }

  /** Calls `act` with the values of every lane, [slots]. */
  eachLane(act: (values: Float32Array) => void): void {
    const values = this.values();
    for (let at = 0; at < values.length; at += this.#width) act(values.subarray(at, at + this.#width));
  }

  #eachLane(act: (words: Int32Array) => void): void {
    const words = this.words();
    for (let at = 0; at < words.length; at += this.#width) act(words.subarray(at, at + this.#width));
  }

  copyFrom(other: SlotValues): void {
    this.#rows = other.#rows;
    this.words().set(other.words());
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

/** Which tokens queries attend to. */
export class Choice implements KvChoice {
  readonly rule: ChoiceRule;
  readonly slots: SlotValues;
  readonly chooser: Region;
  readonly #width: number;

  /** `width`: elements of the lanes' queries. */
  constructor(backend: Backend, rule: ChoiceRule, width: number, pageTokens: number, maxRows: number) {
    this.rule = rule;
    this.slots = new SlotValues(backend, 1, pageTokens, maxRows);
    this.chooser = backend.allocate(4 + 4 * width);
    this.#width = width;
    this.chosenAt = -1;
  }

  get shown(): Region {
    return this.slots.region;
  }

  /** Position of the query that chose last, -1: none has, and the next one will. */
  get chosenAt(): number {
    return this.chooser.int32(0, 1)[0]!;
  }

  set chosenAt(position: number) {
    this.chooser.int32(0, 1)[0] = position;
  }

  /** That query, [lanes, D]. */
  query(): Float32Array {
    return this.chooser.float32(4, this.#width);
  }

  copyFrom(other: Choice): void {
    this.slots.copyFrom(other.slots);
    this.chooser.bytes().set(other.chooser.bytes());
  }
}

/** Which rows are thin, and which elements of keys are stored there. */
export class ThinRows implements KvThin {
  readonly width: number;
  region: Region;
  readonly elementsAt = 0;
  readonly rowsAt: number;
  readonly #backend: Backend;
  #maxRows: number;

  constructor(backend: Backend, lanes: number, width: number, maxRows: number) {
    this.width = width;
    this.rowsAt = 4 * lanes * width;
    this.#backend = backend;
    this.#maxRows = maxRows;
    this.region = backend.allocate(this.rowsAt + 4 * maxRows);
  }

  /** [lanes, width] */
  elements(): Int32Array {
    return this.region.int32(this.elementsAt, this.rowsAt / 4);
  }

  elementsOf(lane: number): Int32Array {
    return this.region.int32(this.elementsAt + 4 * lane * this.width, this.width);
  }

  rows(): Int32Array {
    return this.region.int32(this.rowsAt, this.#maxRows);
  }

  reserve(maxRows: number): void {
    if (maxRows <= this.#maxRows) return;
    const grown = this.#backend.allocate(this.rowsAt + 4 * maxRows);
    grown.bytes(0, this.region.byteLength).set(this.region.bytes());
    this.region.free();
    this.region = grown;
    this.#maxRows = maxRows;
  }

  copyFrom(other: ThinRows): void {
    this.region.bytes().set(other.region.bytes());
  }
}

/** How large queries were, by lane and element. */
export class QuerySums implements KvQueries {
  readonly region: Region;
  from = NEVER;
  readonly #length: number;

  constructor(backend: Backend, lanes: number, headWidth: number) {
    this.#length = lanes * headWidth;
    this.region = backend.allocate(4 * this.#length);
  }

  /** [lanes, D] */
  values(): Float32Array {
    return this.region.float32(0, this.#length);
  }

  copyFrom(other: QuerySums): void {
    this.values().set(other.values());
  }
}

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;
