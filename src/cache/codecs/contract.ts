/**
 * A codec says how a page stores keys and values. Kernels read codec pages directly; what stands here is the
 * definition that the reference backend executes and every kernel is held to.
 *
 * Page layout, common to all codecs: a page is a row of groups of GROUP = 16 tokens, each `groupBytes` long. In a
 * group lie, in this order and each at its natural alignment:
 *   key scales    [16] f32        only where the codec has scales
 *   value scales  [16] f32        only where the codec has scales
 *   keys          [K][16]         element-major: one load takes one element of 16 keys; K = D, less where keys are thin
 *   values        [16][Dp]        token-major, Dp = D rounded up to 16, the rest zero
 * and zeros up to a multiple of 64 bytes.
 * Slot s of a page lies in group floor(s / 16) at token s mod 16.
 */
export const GROUP = 16;

export const CODEC_NAMES = ["f32", "f16", "int8"] as const;

/** How the bytes of a key or value are written. */
export type CodecName = (typeof CODEC_NAMES)[number];

export interface Codec {
  readonly name: CodecName;
  /** Number that kernels use for this codec (kernels/millrace.h, enum Codec). */
  readonly id: number;
  /** Bytes of one group of 16 tokens, keys and values; a multiple of 64. Keys are as wide as values unless said. */
  groupBytes(headWidth: number, keyWidth?: number): number;
  /** Encodes one token's key [K] and value [D] into slot `slot` of `page`. */
  store(page: Uint8Array, slot: number, key: Float32Array, value: Float32Array): void;
  /** Encodes one token's key alone; its value, which is as wide unless said, stays as it is. */
  storeKey(page: Uint8Array, slot: number, key: Float32Array, headWidth?: number): void;
  /** Decodes slot `slot` of `page` into `key` [K] and `value` [D]. */
  load(page: Uint8Array, slot: number, key: Float32Array, value: Float32Array): void;
}
