import type { Backend, Region } from "../../backends/contract.js";

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
