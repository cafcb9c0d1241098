/** No slot, row or position. */
export const NONE = -1;

/** The slots of a table that hold tokens, in the order of their positions: a doubly linked list. */
export class TokenOrder {
  oldest = NONE;
  newest = NONE;
  /** By slot: neighbours. */
  #older: Int32Array;
  #newer: Int32Array;

  constructor(slots: number) {
    this.#older = new Int32Array(slots);
    this.#newer = new Int32Array(slots);
  }

  /** Enters a slot as the newest. */
  append(slot: number): void {
    this.#older[slot] = this.newest;
    this.#newer[slot] = NONE;
    this.#link(slot);
  }

  /** Takes a slot out; its neighbours stay noted in it, for `putBack`. */
  remove(slot: number): void {
    const older = this.#older[slot]!;
    const newer = this.#newer[slot]!;
    if (older === NONE) this.oldest = newer;
    else this.#newer[older] = newer;
    if (newer === NONE) this.newest = older;
    else this.#older[newer] = older;
  }

  /** Undoes `remove`; to be called in the reverse order. */
  putBack(slot: number): void {
    this.#link(slot);
  }

  /** Slot `to` takes the place of slot `from`. */
  rename(from: number, to: number): void {
    this.#older[to] = this.#older[from]!;
    this.#newer[to] = this.#newer[from]!;
    this.#link(to);
  }

  fromOldest(): IterableIterator<number> {
    return walk(this.oldest, this.#newer);
  }

  fromNewest(): IterableIterator<number> {
    return walk(this.newest, this.#older);
  }

  /** Makes room for `slots` slots. */
  grow(slots: number): void {
    this.#older = grown(this.#older, slots);
    this.#newer = grown(this.#newer, slots);
  }

  copyFrom(other: TokenOrder): void {
    this.oldest = other.oldest;
    this.newest = other.newest;
    this.#older = other.#older.slice();
    this.#newer = other.#newer.slice();
  }

  /** Makes the neighbours noted in `slot` point at it. */
  #link(slot: number): void {
    const older = this.#older[slot]!;
    const newer = this.#newer[slot]!;
    if (older === NONE) this.oldest = slot;
    else this.#newer[older] = slot;
    if (newer === NONE) this.newest = slot;
    else this.#older[newer] = slot;
  }
}

/** The same numbers, with room for `length`. */
export function grown(array: Int32Array, length: number): Int32Array<ArrayBuffer> {
  const copy = new Int32Array(length);
  copy.set(array);
  return copy;
}

function* walk(from: number, next: Int32Array): IterableIterator<number> {
  for (let slot = from; slot !== NONE; slot = next[slot]!) yield slot;
}
