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
