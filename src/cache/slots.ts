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

/** How wide the keys of a page are, of one codec and head width, where it is copied from and to. */
export interface KeyWidths {
  readonly from: number;
  readonly to: number;
}

/** Copies tokens between slots of pages of one codec and head width, bit by bit: nothing is decoded. */
export class SlotCopier {
  readonly #codec: CodecName;
  readonly #valueWidth: number;
  readonly #widths: KeyWidths;

  constructor(codec: CodecName, headWidth: number, widths: KeyWidths = { from: headWidth, to: headWidth }) {
    this.#codec = codec;
    this.#valueWidth = headWidth;
    this.#widths = widths;
  }

  /**
   * Pages are given by the byte at which they start in the arena. Where the key becomes narrower, `elements` are those
   * that stay.
   */
  copy(
    arena: Region,
    fromPage: number,
    fromSlot: number,
    toPage: number,
    toSlot: number,
    elements: Int32Array | null = null,
  ): void {
    const from = this.#group(arena, fromPage, fromSlot, this.#widths.from);
    const to = this.#group(arena, toPage, toSlot, this.#widths.to);
    const fromToken = fromSlot % GROUP;
    const toToken = toSlot % GROUP;
    copyScales(from, fromToken, to, toToken);
    const { keys } = to;
    for (let i = 0; i < this.#widths.to; i++)
      keys[i * GROUP + toToken] = from.keys[(elements?.[i] ?? i) * GROUP + fromToken]!;
    copyValue(from, fromToken, to, toToken);
  }

  #group(arena: Region, page: number, slot: number, keyWidth: number): SlotGroup {
    const bytes = codecs[this.#codec].groupBytes(this.#valueWidth, keyWidth);
    const at = page + Math.floor(slot / GROUP) * bytes;
    return groupOf(this.#codec, arena.bytes(at, bytes), this.#valueWidth, keyWidth);
  }
}

/** A group of 16 tokens as unsigned integers, so that no bit pattern is changed: the codec's width, scales 32 bits. */
interface SlotGroup {
  readonly scales: Uint32Array;
  readonly keys: Uint8Array | Uint16Array | Uint32Array;
  readonly values: Uint8Array | Uint16Array | Uint32Array;
  /** Padded. */
  readonly valueWidth: number;
}

function groupOf(codec: CodecName, group: Uint8Array, headWidth: number, keyWidth: number): SlotGroup {
  const { bytes, scales } = ELEMENTS[codec];
  const scaleBytes = scales * GROUP * 4;
  const valueWidth = paddedWidth(headWidth);
  const elements = wordsOf(group.subarray(scaleBytes), bytes);
  return {
    scales: new Uint32Array(group.buffer, group.byteOffset, scaleBytes / 4),
    keys: elements.subarray(0, GROUP * keyWidth),
    values: elements.subarray(GROUP * keyWidth, GROUP * (keyWidth + valueWidth)),
    valueWidth,
  };
}

function copyScales(from: SlotGroup, fromToken: number, to: SlotGroup, toToken: number): void {
  for (let at = 0; at < from.scales.length; at += GROUP)
    to.scales[at + toToken] = from.scales[at + fromToken]!;
}

function copyValue(from: SlotGroup, fromToken: number, to: SlotGroup, toToken: number): void {
  const { valueWidth } = from;
  to.values.set(
    from.values.subarray(fromToken * valueWidth, (fromToken + 1) * valueWidth),
    toToken * valueWidth,
  );
}

/**
 * A thin page with its keys whole again, bit by bit: elements that were not stored are zero, those that were are
 * `elements`, ascending.
 */
export function thickened(
  codec: CodecName,
  headWidth: number,
  page: Uint8Array,
  tokens: number,
  elements: Int32Array,
): Uint8Array {
  const thin = codecs[codec].groupBytes(headWidth, elements.length);
  const thick = codecs[codec].groupBytes(headWidth);
  const whole = new Uint8Array((tokens / GROUP) * thick);
  for (let g = 0; g < tokens / GROUP; g++) {
    const from = groupOf(codec, page.subarray(g * thin, (g + 1) * thin), headWidth, elements.length);
    const to = groupOf(codec, whole.subarray(g * thick, (g + 1) * thick), headWidth, headWidth);
    to.scales.set(from.scales);
    for (const [i, element] of elements.entries())
      to.keys.set(from.keys.subarray(i * GROUP, (i + 1) * GROUP), element * GROUP);
    to.values.set(from.values);
  }
  return whole;
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
