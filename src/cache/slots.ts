import type { Region } from "../backends/contract.js";
import { type CodecName, GROUP } from "./codecs/contract.js";
import { codecs } from "./codecs/index.js";
import { paddedWidth } from "./codecs/layout.js";

/** How a codec's group of 16 tokens (codecs/contract.ts) is made up. */
const ELEMENTS: Record<CodecName, { readonly bytes: 1 | 2 | 4; readonly scales: 0 | 2 }> = {
  f32: { bytes: 4, scales: 0 },
  f16: { bytes: 2, scales: 0 },
  int8: { bytes: 1, scales: 2 },
};

/** Copies tokens between slots of pages of one codec and head width, bit by bit: nothing is decoded. */
export class SlotCopier {
  readonly #groupBytes: number;
  readonly #bytes: 1 | 2 | 4;
  readonly #scales: 0 | 2;
  readonly #headWidth: number;
  readonly #valueWidth: number;

  constructor(codec: CodecName, headWidth: number) {
    this.#groupBytes = codecs[codec].groupBytes(headWidth);
    this.#bytes = ELEMENTS[codec].bytes;
    this.#scales = ELEMENTS[codec].scales;
    this.#headWidth = headWidth;
    this.#valueWidth = paddedWidth(headWidth);
  }

  /** Pages are given by the byte at which they start in the arena. */
  copy(arena: Region, fromPage: number, fromSlot: number, toPage: number, toSlot: number): void {
    const from = this.#elements(arena, fromPage, fromSlot);
    const to = this.#elements(arena, toPage, toSlot);
    const fromToken = fromSlot % GROUP;
    const toToken = toSlot % GROUP;
    if (this.#scales > 0) {
      const fromScales = arena.int32(this.#groupAt(fromPage, fromSlot), this.#scales * GROUP);
      const toScales = arena.int32(this.#groupAt(toPage, toSlot), this.#scales * GROUP);
      for (let i = 0; i < this.#scales; i++)
        toScales[i * GROUP + toToken] = fromScales[i * GROUP + fromToken]!;
    }
    for (let i = 0; i < this.#headWidth; i++) to[i * GROUP + toToken] = from[i * GROUP + fromToken]!;
    const values = GROUP * this.#headWidth;
    const width = this.#valueWidth;
    to.set(
      from.subarray(values + fromToken * width, values + (fromToken + 1) * width),
      values + toToken * width,
    );
  }

  #groupAt(page: number, slot: number): number {
    return page + Math.floor(slot / GROUP) * this.#groupBytes;
  }

  /** Keys and values of the slot's group, as unsigned integers of the codec's width: no bit pattern is changed. */
  #elements(arena: Region, page: number, slot: number): Uint8Array | Uint16Array | Int32Array {
    const at = this.#groupAt(page, slot) + this.#scales * GROUP * 4;
    const count = GROUP * (this.#headWidth + this.#valueWidth);
    if (this.#bytes === 4) return arena.int32(at, count);
    const bytes = arena.bytes(at, count * this.#bytes);
    return this.#bytes === 1 ? bytes : new Uint16Array(bytes.buffer, bytes.byteOffset, count);
  }
}

/**
 * Copies tokens, bit by bit, from slots of one lane's page to slots of another page of the same codec and head width.
 * Both pages start at a multiple of 4 bytes of their buffers.
 */
export function copyTokens(
  codec: CodecName,
  headWidth: number,
  from: Uint8Array,
  fromSlots: ArrayLike<number>,
  to: Uint8Array,
  toSlots: ArrayLike<number>,
): void {
  const { bytes, scales } = ELEMENTS[codec];
  const perGroup = codecs[codec].groupBytes(headWidth);
  const valueWidth = paddedWidth(headWidth);
  const source = wordsOf(from, bytes);
  const target = wordsOf(to, bytes);
  const sourceScales = wordsOf(from, 4);
  const targetScales = wordsOf(to, 4);
  const keysAt = (slot: number) => (Math.floor(slot / GROUP) * perGroup + scales * GROUP * 4) / bytes;
  for (let n = 0; n < fromSlots.length; n++) {
    const [a, b] = [fromSlots[n]!, toSlots[n]!];
    const [tokenA, tokenB] = [a % GROUP, b % GROUP];
    for (let i = 0; i < scales; i++) {
      const at = (Math.floor(b / GROUP) * perGroup) / 4 + i * GROUP + tokenB;
      targetScales[at] = sourceScales[(Math.floor(a / GROUP) * perGroup) / 4 + i * GROUP + tokenA]!;
    }
    const [keyA, keyB] = [keysAt(a), keysAt(b)];
    for (let i = 0; i < headWidth; i++)
      target[keyB + i * GROUP + tokenB] = source[keyA + i * GROUP + tokenA]!;
    const valueA = keyA + GROUP * headWidth + tokenA * valueWidth;
    const valueB = keyB + GROUP * headWidth + tokenB * valueWidth;
    for (let i = 0; i < valueWidth; i++) target[valueB + i] = source[valueA + i]!;
  }
}

/** The same memory as unsigned integers of 1, 2 or 4 bytes. */
function wordsOf(page: Uint8Array, bytes: 1 | 2 | 4): Uint8Array | Uint16Array | Uint32Array {
  const { buffer, byteOffset, byteLength } = page;
  if (bytes === 1) return page;
  return bytes === 2
    ? new Uint16Array(buffer, byteOffset, byteLength / 2)
    : new Uint32Array(buffer, byteOffset, byteLength / 4);
}
