/**
 * First weights that can look back.
 *
 * What a small decoder finds out last is to copy what stood further up: one head must attend one token back, and a
 * head of a later layer must look for what the first one wrote (induction heads: "In-context Learning and Induction
 * Heads", arXiv 2209.11895). Neither half pays before the other is there, so a model can wait for millions of tokens.
 * Here a fresh one gets both, wired by hand from what was drawn; training makes of them what it can use.
 */
import type { MemoryTensor } from "../formats/memory.js";

export interface LookBackShape {
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly ropeBase: number;
}

/** How sharply the first layer's heads look one token back: its score is SHARPNESS^2 / sqrt(head width) per pair. */
const SHARPNESS = 7;
/** Size of what they write, beside a token's own. */
const WRITTEN = 0.18;
/** Gains of key and query in the second layer. */
const KEY = 2;
const QUERY = 3.5;
/** How strongly a token that was found is written. */
const FOUND = 0.6;

/**
 * Rewrites weights of a fresh llama (rotary pairs are neighbours) of at least two layers and two kv heads, in place.
 * The stream's dimension 0 becomes 1 for every token, so that heads have a fixed direction to look from; its last
 * dimensions are left free by tokens, for what stood before them. All else that layers write begins at 0.
 */
export function wireLookBack(
  tensors: Readonly<Record<string, MemoryTensor>>,
  { width, layers, heads, kvHeads, headWidth, ropeBase }: LookBackShape,
): void {
  const data = (name: string): Float32Array => tensors[`${name}.weight`]!.data as Float32Array;
  for (let layer = 0; layer < layers; layer++) {
    data(`blk.${layer}.attn_output`).fill(0);
    data(`blk.${layer}.ffn_down`).fill(0);
  }
  const group = heads / kvHeads;
  const half = headWidth / 2;
  /** Kv heads of the first layer that look back, and where in the stream they write. */
  const writers = Math.max(1, Math.floor(kvHeads / 2));
  const free = width - writers * headWidth;
  const embedding = data("token_embd");
  for (let at = 0; at < embedding.length; at += width) {
    embedding[at] = 1;
    embedding.fill(0, at + free, at + width);
  }
  const columns = heads * headWidth;
  /** What a norm makes of dimension 0. */
  const fixed = Math.sqrt(width / 2);

  const q0 = data("blk.0.attn_q");
  const k0 = data("blk.0.attn_k");
  const v0 = data("blk.0.attn_v");
  const o0 = data("blk.0.attn_output");
  for (let kvHead = 0; kvHead < writers; kvHead++) {
    for (let dim = 0; dim < headWidth; dim++) {
      const key = kvHead * headWidth + dim;
      const query = kvHead * group * headWidth + dim;
      const frequency = ropeBase ** ((-2 * Math.floor(dim / 2)) / headWidth);
      onlyFixed(
        k0,
        key,
        width,
        (SHARPNESS / fixed) * (dim % 2 === 0 ? Math.cos(frequency) : Math.sin(frequency)),
      );
      onlyFixed(q0, query, width, dim % 2 === 0 ? SHARPNESS / fixed : 0);
      v0[key * width] = 0;
      o0[(free + key) * columns + query] = WRITTEN;
    }
  }

  const q1 = data("blk.1.attn_q");
  const k1 = data("blk.1.attn_k");
  const v1 = data("blk.1.attn_v");
  const o1 = data("blk.1.attn_output");
  for (let kvHead = 0; kvHead < Math.min(kvHeads, 2 * writers); kvHead++) {
    for (let dim = 0; dim < headWidth; dim++) {
      const key = kvHead * headWidth + dim;
      const query = kvHead * group * headWidth + dim;
      // The slow half of the rotary pairs says the same over any distance: the only half that is used.
      const source = kvHead * half + dim - half;
      onlyFixed(k1, key, width, 0);
      onlyFixed(q1, query, width, 0);
      if (dim >= half) {
        k1[key * width + free + source] = KEY;
        for (let i = 1; i < free; i++) q1[query * width + i] = QUERY * v0[source * width + i]!;
      }
      v1[key * width] = 0;
      for (let i = 1; i < free; i++) o1[i * columns + query] = FOUND * v1[key * width + i]!;
    }
  }
}

/** A row that reads dimension 0 alone. */
function onlyFixed(matrix: Float32Array, row: number, width: number, value: number): void {
  matrix.fill(0, row * width, (row + 1) * width);
  matrix[row * width] = value;
}
