import { LAYOUTS, rowBytes } from "../../src/formats/blocks/contract.js";
import { blockFormat } from "../../src/formats/blocks/index.js";
import type { TensorType } from "../../src/formats/checkpoint.js";
import type { TestRandom } from "../support/random.js";

export const TENSOR_TYPES = Object.keys(LAYOUTS) as TensorType[];
export const FLOAT_TYPES: readonly TensorType[] = ["F32", "F16", "BF16"];

/** Input widths that a type's blocks allow. */
export function columnsOf(type: TensorType): readonly number[] {
  switch (LAYOUTS[type].blockElements) {
    case 1:
      return [8, 32, 64, 96, 256, 288];
    case 32:
      return [32, 64, 96, 256, 288, 768];
    case 256:
      return [256, 512, 768];
  }
}

/** Stored bytes of a random matrix of `type`, and the numbers that they stand for. */
export function randomWeight(
  random: TestRandom,
  type: TensorType,
  rows: number,
  columns: number,
): { data: Uint8Array; decoded: Float32Array } {
  const values = random.floats(rows * columns);
  // Blocks of very different sizes, a block of zeros, and an outlier: scales must reach the right block.
  for (let i = 0; i < values.length; i++) values[i]! *= 0.25 + (Math.floor(i / 32) % 7);
  values.fill(0, values.length - 32);
  values[values.length >> 1] = 20;
  return encoded(type, values, rows, columns);
}

export function encoded(type: TensorType, values: Float32Array, rows: number, columns: number) {
  const data = new Uint8Array(rows * rowBytes(type, columns));
  const decoded = new Float32Array(rows * columns);
  blockFormat(type).encode(values, data);
  blockFormat(type).decode(data, decoded);
  return { data, decoded };
}
