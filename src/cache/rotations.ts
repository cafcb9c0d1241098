/** The segment rotations of one step: each distinct offset once, in the order in which it was first asked for. */
export class Rotations {
  #values = new Float64Array(16);
  #length = 0;

  /** Row of `offset` (in positions, as Step.rotations has it). */
  rowOf(offset: number): number {
    for (let row = 0; row < this.#length; row++) if (this.#values[row] === offset) return row;
    if (this.#length === this.#values.length) {
      const grown = new Float64Array(this.#length * 2);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.#length] = offset;
    return this.#length++;
  }

  /** For Step.rotations; valid until the next `rowOf` or `clear`. */
  values(): Float64Array {
    return this.#values.subarray(0, this.#length);
  }

  clear(): void {
    this.#length = 0;
  }
}
