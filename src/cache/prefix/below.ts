/** Where blocks go that the tree gives up, and come back from when a prompt wants them. */
import type { Node } from "./node.js";
import { join, type PrefixPages } from "./pages.js";

/** Keeps blocks outside the pool. Positions are whole blocks. */
export interface LowerPrefixes {
  readonly diskBytes: number;
  /** `way` are all tokens from a namespace's start; `payloadOf` gives the pages of the block at a position, from `from` on. */
  take(namespace: string, way: Int32Array, from: number, payloadOf: (at: number) => Uint8Array): void;
  /** How many tokens of a prompt it has from `from` on, before `end`. */
  find(namespace: string, prompt: Int32Array, from: number, end: number): number;
  /** Payloads of the blocks from `from` to `end`, as far as they can be read. Never rejects. */
  read(namespace: string, prompt: Int32Array, from: number, end: number): Promise<Uint8Array[]>;
}

/** Most bytes that are brought back at a time: copying them must not hold others up. */
const BROUGHT_BYTES = 16 * 2 ** 20;

/** Copies the tokens of a leaf from `from` on down. Tails are not worth a place. */
export function putBelow<W>(below: LowerPrefixes, node: Node<W>, from: number, pages: PrefixPages): void {
  const { block } = pages;
  if (node.tokens.length % block > 0) return;
  const runs: Int32Array[] = [];
  for (let each: Node<W> | null = node; each; each = each.parent) runs.unshift(each.tokens);
  const way = join(runs);
  const start = way.length - node.tokens.length;
  const payload = new Uint8Array(pages.blockBytes);
  below.take(node.namespace, way, start + from, (at) => {
    const own = pages.slice(node.pages, at - start, at - start + block);
    pages.each(own, (bytes, offset) => payload.set(bytes, offset));
    return payload;
  });
}

/** Tokens of a prompt from `from` on, where a block ends, that can be had from below, at a time. */
export function findBelow(
  below: LowerPrefixes,
  namespace: string,
  prompt: Int32Array,
  from: number,
  { block, blockBytes }: PrefixPages,
): number {
  const most = Math.max(1, Math.floor(BROUGHT_BYTES / blockBytes));
  // The last token must be run.
  const end = Math.min(prompt.length - 1, from + most * block);
  return below.find(namespace, prompt, from, end);
}
