import { GROUP } from "./contract.js";

/** D rounded up to 16: the padded width of a stored value. */
export const paddedWidth = (headWidth: number): number => Math.ceil(headWidth / GROUP) * GROUP;

/** Bytes of one group (see contract.ts), padded at its end to a multiple of 64. */
export function groupBytes(
  valueWidth: number,
  keyWidth: number,
  bytesPerElement: number,
  scaleBytes: number,
): number {
  const elements = GROUP * (keyWidth + paddedWidth(valueWidth));
  return Math.ceil((scaleBytes + elements * bytesPerElement) / 64) * 64;
}
