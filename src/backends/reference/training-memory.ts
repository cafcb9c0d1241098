/** Memory of the reference trainer: plain typed arrays, counted. */
import { MillraceError } from "../../errors.js";
import type { TensorType } from "../../formats/checkpoint.js";
import type { Ids, Matrix, StoredRows, Values } from "../training.js";
import { checkRange } from "../training-checks.js";

export type Numbers = Float32Array | Float64Array;

/** Adds up what is allocated. */
export class Tally {
  current = 0;
  peak = 0;

  add(bytes: number): void {
    this.current += bytes;
    this.peak = Math.max(this.peak, this.current);
  }
}

/** What every kind of memory here does: it counts while it lives, and is not used after `free`. */
abstract class Counted {
  readonly #tally: Tally;
  readonly #bytes: number;
  #freed = false;

  constructor(tally: Tally, bytes: number) {
    this.#tally = tally;
    this.#bytes = bytes;
    tally.add(bytes);
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#tally.add(-this.#bytes);
  }

  /** Throws INVALID_ARGUMENT after `free`. */
  protected check(): void {
    if (this.#freed) throw new MillraceError("INVALID_ARGUMENT", "Memory was used after it was freed.");
  }
}

export class ReferenceValues extends Counted implements Values {
  readonly #data: Numbers;

  constructor(tally: Tally, data: Numbers) {
    super(tally, data.byteLength);
    this.#data = data;
  }

  get length(): number {
    return this.#data.length;
  }

  get data(): Numbers {
    this.check();
    return this.#data;
  }

  async read(at = 0, length = this.length - at): Promise<Numbers> {
    checkRange("read", at, length, this.length);
    return this.data.slice(at, at + length);
  }

  async write(values: ArrayLike<number>, at = 0): Promise<void> {
    checkRange("written", at, values.length, this.length);
    this.data.set(values, at);
  }
}

export class ReferenceIds extends Counted implements Ids {
  readonly #data: Int32Array;

  constructor(tally: Tally, length: number) {
    super(tally, 4 * length);
    this.#data = new Int32Array(length);
  }

  get length(): number {
    return this.#data.length;
  }

  get data(): Int32Array {
    this.check();
    return this.#data;
  }

  async write(values: ArrayLike<number>): Promise<void> {
    checkRange("written", 0, values.length, this.length);
    this.data.set(values);
  }
}

export class ReferenceRows extends Counted implements StoredRows {
  readonly type: TensorType;
  readonly rows: number;
  readonly columns: number;
  readonly #bytes: Uint8Array;

  constructor(tally: Tally, type: TensorType, rows: number, columns: number, bytes: Uint8Array) {
    super(tally, bytes.byteLength);
    this.type = type;
    this.rows = rows;
    this.columns = columns;
    this.#bytes = bytes.slice();
  }

  get bytes(): Uint8Array {
    this.check();
    return this.#bytes;
  }
}

/** The numbers that a matrix lies in. Throws INVALID_ARGUMENT for a matrix of another backend or outside its memory. */
export function dataOf(matrix: Matrix): Numbers {
  const { values, at, rows, columns, stride } = matrix;
  if (!(values instanceof ReferenceValues)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "A matrix lies in memory that this backend did not allocate.",
    );
  }
  const end = rows === 0 ? at : at + (rows - 1) * stride + columns;
  if (at < 0 || columns > stride || end > values.length) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Matrix [${rows}, ${columns}] at ${at} with stride ${stride} ends at ${end}; its memory holds ${values.length}.`,
      { rows, columns, at, stride, length: values.length },
    );
  }
  return values.data;
}
