import type { Backend, KvThin, Region } from "../../backends/contract.js";

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
