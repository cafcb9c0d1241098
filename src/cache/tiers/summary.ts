/**
 * What stays in memory of the keys of a block: per lane a few vectors that stand for all of them.
 *
 * Keys lie in pages rotated at their own positions, so keys of distant blocks cannot be compared with one query. A
 * summary is of keys turned back to position 0, and is met by queries turned back likewise: what is compared is
 * content alone, as ReKV (ICLR 2025) does with keys before RoPE. One mean per block loses a single telling token
 * among many, so the keys are parted around those that lie furthest apart, and each part gives its mean.
 */
import type { KvGroup } from "../../backends/contract.js";
import type { RopeRef } from "../../tape/tape.js";
import { codecs } from "../codecs/index.js";

/** Vectors of a block as signed bytes and their steps: element = byte x step. */
export interface Summary {
  /** [lanes, vectors] */
  readonly steps: Float32Array;
  /** [lanes, vectors, D] */
  readonly bytes: Int8Array;
}

/** Makes summaries of one group's blocks. Its memory is reused: a summary is valid until the next. */
export class Summarizer {
  readonly vectors: number;
  readonly #group: KvGroup;
  readonly #blockBytes: number;
  readonly #ropes: readonly (RopeRef | null)[];
  readonly #keys: Float32Array;
  readonly #value: Float32Array;
  readonly #angles = new Map<RopeRef, Float32Array>();
  readonly #parts: Partition;
  readonly #summary: Summary;

  /**
   * @param ropes By lane of the group: how its queries and keys are rotated, null for not at all.
   * @param vectors Vectors that stand for a block, per lane; at least 1.
   */
  constructor(group: KvGroup, ropes: readonly (RopeRef | null)[], vectors: number) {
    const { pageTokens, headWidth } = group;
    this.vectors = vectors;
    this.#group = group;
    this.#blockBytes = blockBytes(group);
    this.#ropes = ropes;
    this.#keys = new Float32Array(pageTokens * headWidth);
    this.#value = new Float32Array(headWidth);
    this.#parts = new Partition(Math.max(pageTokens, 2 * vectors), headWidth, vectors);
    this.#summary = emptySummary(group, vectors);
    for (const rope of new Set(ropes)) {
      if (rope) this.#angles.set(rope, new Float32Array(pageTokens * 2 * rope.frequencies.length));
    }
  }

  /** Of a block's pages, lane after lane, with its tokens in the first slots. Takes time by tokens x lanes x D. */
  of(pages: Uint8Array, positions: Int32Array): Summary {
    const { headWidth, codec, lanes } = this.#group;
    const { load } = codecs[codec];
    for (const [rope, angles] of this.#angles) fillAngles(rope, positions, angles);
    for (let lane = 0; lane < lanes.length; lane++) {
      const page = pages.subarray(lane * this.#blockBytes, (lane + 1) * this.#blockBytes);
      const rope = this.#ropes[lane];
      for (let t = 0; t < positions.length; t++) {
        const key = this.#keys.subarray(t * headWidth, (t + 1) * headWidth);
        load(page, t, key, this.#value);
        if (rope) unrotate(key, rope, this.#angles.get(rope)!, t);
      }
      this.#parts.part(this.#keys, positions.length);
      this.#put(lane);
    }
    return this.#summary;
  }

  /** One summary in place of two: their vectors, parted anew. Writes over `into`, which may be one of them. */
  merge(a: Summary, b: Summary, into: Summary): void {
    const { headWidth, lanes } = this.#group;
    const both = new Float32Array(2 * this.vectors * headWidth);
    for (let lane = 0; lane < lanes.length; lane++) {
      for (const [i, { steps, bytes }] of [a, b].entries()) {
        for (let v = 0; v < this.vectors; v++) {
          const at = lane * this.vectors + v;
          for (let d = 0; d < headWidth; d++) {
            both[(i * this.vectors + v) * headWidth + d] = bytes[at * headWidth + d]! * steps[at]!;
          }
        }
      }
      this.#parts.part(both, 2 * this.vectors);
      this.#put(lane);
    }
    into.steps.set(this.#summary.steps);
    into.bytes.set(this.#summary.bytes);
  }

  #put(lane: number): void {
    const { headWidth } = this.#group;
    const { steps, bytes } = this.#summary;
    for (let v = 0; v < this.vectors; v++) {
      const at = lane * this.vectors + v;
      const mean = this.#parts.means.subarray(v * headWidth, (v + 1) * headWidth);
      let largest = 0;
      for (const x of mean) largest = Math.max(largest, Math.abs(x));
      const step = largest / 127;
      steps[at] = step;
      for (let d = 0; d < headWidth; d++)
        bytes[at * headWidth + d] = step > 0 ? Math.round(mean[d]! / step) : 0;
    }
  }
}

/** Bytes of one lane's tokens of a whole block. */
export const blockBytes = ({ codec, headWidth, pageTokens }: KvGroup): number =>
  (pageTokens / 16) * codecs[codec].groupBytes(headWidth);

export function emptySummary({ lanes, headWidth }: KvGroup, vectors: number): Summary {
  const count = lanes.length * vectors;
  return { steps: new Float32Array(count), bytes: new Int8Array(count * headWidth) };
}

/** Cosines and sines that turn what was rotated at each position back, [positions, 2, pairs]. */
export function fillAngles(rope: RopeRef, positions: ArrayLike<number>, angles: Float32Array): void {
  const pairs = rope.frequencies.length;
  for (let t = 0; t < positions.length; t++) {
    for (let i = 0; i < pairs; i++) {
      const angle = -positions[t]! * rope.frequencies[i]!;
      angles[2 * t * pairs + i] = Math.cos(angle);
      angles[(2 * t + 1) * pairs + i] = Math.sin(angle);
    }
  }
}

/** Rotates a vector [D] by row `t` of `angles`, in place. */
export function unrotate(x: Float32Array, rope: RopeRef, angles: Float32Array, t: number): void {
  const pairs = rope.frequencies.length;
  const [stride, apart] = rope.style === "half" ? [1, pairs] : [2, 1];
  for (let i = 0; i < pairs; i++) {
    const cos = angles[2 * t * pairs + i]!;
    const sin = angles[(2 * t + 1) * pairs + i]!;
    const a = x[i * stride]!;
    const b = x[i * stride + apart]!;
    x[i * stride] = a * cos - b * sin;
    x[i * stride + apart] = a * sin + b * cos;
  }
}

/** Parts vectors around those furthest apart (Gonzalez 1985), and takes the mean of each part. */
class Partition {
  /** [vectors, width]; where there are fewer vectors than parts the last part is repeated. */
  readonly means: Float32Array;
  readonly #width: number;
  readonly #parts: number;
  /** By vector: squared distance to the nearest seed, and which that is. */
  readonly #distance: Float32Array;
  readonly #nearest: Int32Array;

  constructor(most: number, width: number, parts: number) {
    this.means = new Float32Array(parts * width);
    this.#width = width;
    this.#parts = parts;
    this.#distance = new Float32Array(most);
    this.#nearest = new Int32Array(most);
  }

  part(vectors: Float32Array, count: number): void {
    const width = this.#width;
    this.#nearest.fill(0, 0, count);
    this.#average(vectors, count, 1);
    let parts = 1;
    if (this.#parts > 1) {
      // The first seed lies furthest from the mean of all; each further one furthest from those before it.
      this.#distance.fill(Number.POSITIVE_INFINITY, 0, count);
      this.#approach(vectors, count, this.means.slice(0, width), 0);
      let seed = this.#furthest(count);
      this.#distance.fill(Number.POSITIVE_INFINITY, 0, count);
      for (parts = 0; parts < this.#parts; parts++) {
        if (parts > 0 && this.#distance[seed] === 0) break;
        this.#approach(vectors, count, vectors.slice(seed * width, (seed + 1) * width), parts);
        seed = this.#furthest(count);
      }
      this.#average(vectors, count, parts);
    }
    for (; parts < this.#parts; parts++) {
      this.means.copyWithin(parts * width, (parts - 1) * width, parts * width);
    }
  }

  /** Vectors that lie nearer to `seed` than to those before become part of it. */
  #approach(vectors: Float32Array, count: number, seed: Float32Array, part: number): void {
    const width = this.#width;
    for (let i = 0; i < count; i++) {
      let distance = 0;
      for (let d = 0; d < width; d++) {
        const apart = vectors[i * width + d]! - seed[d]!;
        distance += apart * apart;
      }
      if (!(distance < this.#distance[i]!)) continue;
      this.#distance[i] = distance;
      this.#nearest[i] = part;
    }
  }

  #furthest(count: number): number {
    let furthest = 0;
    for (let i = 1; i < count; i++) if (this.#distance[i]! > this.#distance[furthest]!) furthest = i;
    return furthest;
  }

  #average(vectors: Float32Array, count: number, parts: number): void {
    const width = this.#width;
    this.means.fill(0, 0, parts * width);
    const sizes = new Int32Array(parts);
    for (let i = 0; i < count; i++) {
      const part = this.#nearest[i]!;
      sizes[part]!++;
      for (let d = 0; d < width; d++) this.means[part * width + d]! += vectors[i * width + d]!;
    }
    for (let part = 0; part < parts; part++) {
      for (let d = 0; d < width; d++) this.means[part * width + d]! /= sizes[part]!;
    }
  }
}
