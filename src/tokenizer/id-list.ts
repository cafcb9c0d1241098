/** A growing list of token ids. */
export class IdList {
  #ids = new Int32Array(64);
  #length = 0;

  push(id: number): void {
    if (this.#length === this.#ids.length) this.#grow(1);
    this.#ids[this.#length++] = id;
  }

  append(ids: Int32Array): void {
    if (this.#length + ids.length > this.#ids.length) this.#grow(ids.length);
    this.#ids.set(ids, this.#length);
    this.#length += ids.length;
  }

  clear(): void {
    this.#length = 0;
  }

  toArray(): Int32Array {
    return this.#ids.slice(0, this.#length);
  }

  #grow(by: number): void {
    const ids = new Int32Array(Math.max(this.#ids.length * 2, this.#length + by));
    ids.set(this.#ids);
    this.#ids = ids;
  }
}
