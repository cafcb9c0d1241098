/** Memory of training on the compiled backends: regions of the machine, not used after `free`. */
import { MillraceError } from "../../errors.js";
import type { TensorType } from "../../formats/checkpoint.js";
import type { Region } from "../contract.js";
import type { Ids, Matrix, StoredRows, Values } from "../training.js";
import { checkRange } from "../training-checks.js";

/** Whose memory it is, and who has ops that wait to be run. */
export interface Owner {
  /** Throws OUT_OF_BUDGET where the machine refuses. */
  claim(byteLength: number): Region;
  /** Frees a region once nothing that was recorded needs it. */
  release(region: Region): void;
  /** Runs what was recorded. */
  flush(): void;
}

abstract class Owned {
  readonly owner: Owner;
  readonly #region: Region;
  #freed = false;

  constructor(owner: Owner, region: Region) {
    this.owner = owner;
    this.#region = region;
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.owner.release(this.#region);
  }

  /** Throws INVALID_ARGUMENT after `free`. */
  protected get region(): Region {
    if (this.#freed) throw new MillraceError("INVALID_ARGUMENT", "Memory was used after it was freed.");
    return this.#region;
  }
}

/** `thing` as memory of this kind. Throws INVALID_ARGUMENT where it is not, or not the owner's. */
export function ownedBy<T extends Owned>(
  owner: Owner,
  thing: unknown,
  kind: abstract new (...args: never[]) => T,
  what: string,
): T {
  if (thing instanceof kind && thing.owner === owner) return thing;
  throw new MillraceError("INVALID_ARGUMENT", `${what} in memory that this backend did not allocate.`);
}

export class CompiledValues extends Owned implements Values {
  readonly length: number;

  constructor(owner: Owner, length: number) {
    super(owner, owner.claim(4 * length));
    this.length = length;
  }

  async read(at = 0, length = this.length - at): Promise<Float32Array> {
    checkRange("read", at, length, this.length);
    this.owner.flush();
    const copy = new Float32Array(length);
    eachView(at, length, (from, count) => {
      copy.set(this.region.float32(4 * from, count), from - at);
    });
    return copy;
  }

  async write(values: ArrayLike<number>, at = 0): Promise<void> {
    checkRange("written", at, values.length, this.length);
    this.owner.flush();
    const { region } = this;
    eachView(at, values.length, (from, count) => {
      const whole =
        count === values.length ? values : Array.prototype.slice.call(values, from - at, from - at + count);
      region.float32(4 * from, count).set(whole);
    });
  }

  /** The address of a matrix's first element. Throws INVALID_ARGUMENT for a matrix outside this memory. */
  place({ at, rows, columns, stride }: Matrix): number {
    const end = rows === 0 ? at : at + (rows - 1) * stride + columns;
    if (at < 0 || rows < 0 || columns < 0 || (rows > 1 && columns > stride) || end > this.length) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Matrix [${rows}, ${columns}] at ${at} with stride ${stride} ends at ${end}; its memory holds ${this.length}.`,
        { rows, columns, at, stride, length: this.length },
      );
    }
    return this.region.address + 4 * at;
  }
}

export class CompiledIds extends Owned implements Ids {
  readonly length: number;
  /** Zeros where nothing was written. */
  #least = 0;
  #most = 0;

  constructor(owner: Owner, length: number) {
    super(owner, owner.claim(4 * length));
    this.length = length;
  }

  async write(values: ArrayLike<number>): Promise<void> {
    checkRange("written", 0, values.length, this.length);
    this.owner.flush();
    const ids = this.region.int32(0, this.length);
    ids.set(values);
    this.#least = ids.reduce((least, id) => Math.min(least, id), 0);
    this.#most = ids.reduce((most, id) => Math.max(most, id), 0);
  }

  /** Their address. Throws INVALID_TOKEN for an id below `least` or from `end` on. */
  within(least: number, end: number): number {
    if (this.#least < least || this.#most >= end) {
      const token = this.#least < least ? this.#least : this.#most;
      throw new MillraceError("INVALID_TOKEN", `Id ${token} lies outside ${least} to ${end - 1}.`, { token });
    }
    return this.region.address;
  }
}

export class CompiledRows extends Owned implements StoredRows {
  readonly type: TensorType;
  readonly rows: number;
  readonly columns: number;
  /** Number of the type in packed form. */
  readonly packedType: number;

  /** `region` holds the rows, packed, and is freed with them. */
  constructor(
    owner: Owner,
    region: Region,
    type: TensorType,
    rows: number,
    columns: number,
    packedType: number,
  ) {
    super(owner, region);
    this.type = type;
    this.rows = rows;
    this.columns = columns;
    this.packedType = packedType;
  }

  get address(): number {
    return this.region.address;
  }
}

/** Host views of a region may not be longer than this many numbers (1 GiB). */
const VIEW_LENGTH = 2 ** 28;

function eachView(at: number, length: number, use: (from: number, count: number) => void): void {
  for (let from = at; from < at + length; from += VIEW_LENGTH)
    use(from, Math.min(VIEW_LENGTH, at + length - from));
}
