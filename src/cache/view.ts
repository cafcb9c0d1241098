import type { Backend, KvMass, KvQueries, KvView, Region } from "../backends/contract.js";
import type { CodecName } from "./codecs/contract.js";
import type { CacheGroup } from "./layout.js";
import { Choice } from "./table/choice.js";
import { Mass, QuerySums } from "./table/measures.js";
import { SlotValues } from "./table/slot-values.js";
import { ThinRows } from "./table/thin-rows.js";

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
  /** Of these, what is kept by slot. */
  readonly values: readonly SlotValues[];
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
    this.values = [this.received, this.counted, this.choice?.slots ?? null].filter((each) => each !== null);
  }

  get queries(): KvQueries | null {
    return this.measured?.isResting ? null : this.measured;
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

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;
