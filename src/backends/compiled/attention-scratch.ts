import { align } from "./abi.js";

/** Bytes that one attention op works in; as stated at the head of kernels/attention.c. */
export function attentionScratch(shape: {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly maxTokens: number;
  readonly numThreads: number;
}): { partialBytes: number; threadBytes: number } {
  const { numHeads, numKvHeads, headWidth, maxTokens, numThreads } = shape;
  const paddedWidth = align(headWidth, 16);
  const rows = Math.min(64, maxTokens * (numHeads / numKvHeads));
  const shared = numThreads > 1 ? 512 * numThreads * rows * (paddedWidth + 16) : 0;
  return {
    partialBytes: align(8 * maxTokens * numHeads) + shared,
    threadBytes: numThreads * (1792 * paddedWidth + 12288),
  };
}
