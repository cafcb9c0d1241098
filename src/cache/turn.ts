import type { RopeRef } from "../tape/tape.js";
import { codecs } from "./codecs/index.js";
import type { CacheGroup } from "./layout.js";

/**
 * Rotates stored keys of one lane group, in double precision, as if their tokens stood elsewhere. A key that is written
 * in few bits loses a little each time: see `settleTokens` (table/settle.ts), which turns as few as can be.
 */
export class KeyTurner {
  readonly #group: CacheGroup;
  readonly #key: Float32Array;
  readonly #value: Float32Array;
  /** By rope: cosines, then sines, of the last turn asked for. */
  readonly #angles = new Map<RopeRef, Float64Array>();
  #by = 0;

  constructor(group: CacheGroup) {
    this.#group = group;
    this.#key = new Float32Array(group.headWidth);
    this.#value = new Float32Array(group.headWidth);
    for (const rope of group.ropes)
      if (rope) this.#angles.set(rope, new Float64Array(2 * rope.frequencies.length));
  }

  /** Makes the key in slot `slot` of a lane's page that of a token `by` positions further on (negative: back). */
  turn(lane: number, page: Uint8Array, slot: number, by: number): void {
    const rope = this.#group.ropes[lane];
    if (!rope || by === 0) return;
    this.#aim(by);
    const angles = this.#angles.get(rope)!;
    const codec = codecs[this.#group.codec];
    codec.load(page, slot, this.#key, this.#value);
    const pairs = rope.frequencies.length;
    const [stride, apart] = rope.style === "half" ? [1, pairs] : [2, 1];
    for (let i = 0; i < pairs; i++) {
      const [cos, sin] = [angles[i]!, angles[pairs + i]!];
      const [a, b] = [this.#key[i * stride]!, this.#key[i * stride + apart]!];
      this.#key[i * stride] = a * cos - b * sin;
      this.#key[i * stride + apart] = a * sin + b * cos;
    }
    codec.storeKey(page, slot, this.#key);
  }

  #aim(by: number): void {
    if (by === this.#by) return;
    this.#by = by;
    for (const [{ frequencies }, angles] of this.#angles) {
      for (const [i, frequency] of frequencies.entries()) {
        angles[i] = Math.cos(by * frequency);
        angles[frequencies.length + i] = Math.sin(by * frequency);
      }
    }
  }
}
