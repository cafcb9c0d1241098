/** Makes a `BlockFormat` of functions that handle one block: lengths are checked here, once for all formats. */
import { MillraceError } from "../../errors.js";
import type { TensorType } from "../checkpoint.js";
import { f16ToF32, f32ToF16 } from "../f16.js";
import { type BlockFormat, LAYOUTS } from "./contract.js";

interface BlockCodec {
  readonly name: TensorType;
  /** Decodes the block at byte `at` to `out[to...]`. */
  decodeBlock(bytes: Uint8Array, at: number, out: Float32Array, to: number): void;
  /** Encodes `values[from...]` to the block at byte `at`, of which every byte is written. */
  encodeBlock(values: Float32Array, from: number, out: Uint8Array, at: number): void;
}

export function defineBlocks(codec: BlockCodec): BlockFormat {
  const { blockElements, blockBytes } = LAYOUTS[codec.name];
  return {
    name: codec.name,
    blockElements,
    blockBytes,
    decode(bytes, out) {
      const count = countBlocks(codec.name, out, bytes);
      for (let block = 0; block < count; block++) {
        codec.decodeBlock(bytes, block * blockBytes, out, block * blockElements);
      }
    },
    encode(values, out) {
      const count = countBlocks(codec.name, values, out);
      for (let block = 0; block < count; block++) {
        codec.encodeBlock(values, block * blockElements, out, block * blockBytes);
      }
    },
  };
}

/** How many blocks both arrays hold. Throws INVALID_ARGUMENT where that is not the same whole number. */
export function countBlocks(type: TensorType, values: Float32Array, bytes: Uint8Array): number {
  const { blockElements, blockBytes } = LAYOUTS[type];
  const count = values.length / blockElements;
  if (!Number.isInteger(count) || bytes.length !== count * blockBytes) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${type}: got ${values.length} values and ${bytes.length} bytes, expected ${blockBytes} bytes for ` +
        `every ${blockElements} values.`,
      { type, values: values.length, bytes: bytes.length },
    );
  }
  return count;
}

/** The half at byte `at`. */
export function getF16(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at]! | (bytes[at + 1]! << 8));
}

/** Stores `value` as a half, saturated to the finite range, and gives back what was stored. */
export function putF16(out: Uint8Array, at: number, value: number): number {
  const bits = f32ToF16(Math.max(-65504, Math.min(65504, value)));
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
  return f16ToF32(bits);
}

/** A byte read as two's complement. */
export const int8 = (byte: number): number => (byte << 24) >> 24;
