/**
 * Prefixes on disk: blocks that the prefix tree gave up, under a hard budget of their own, found again by what they are.
 * A block's key is a hash of its tokens and of all that come before them, back to its namespace; so the blocks of a prompt are
 * looked for one after another, whatever shape the tree had. The oldest go first; a block that was brought back and given
 * up again is written anew before its file's turn comes.
 *
 * A record (files.ts) has the key and the tokens beside the pages, both compared before its bytes are used. Records that a
 * crash tore, or whose bytes have changed, are as if they had never been written.
 */
import { createHash } from "node:crypto";
import type { LowerPrefixes } from "../prefix.js";
import { type BlockRecord, headBytesFor, recordBytesFor } from "./files.js";
import { type BlockStore, type FoundRecord, openStore } from "./store.js";

export interface PrefixTierOptions {
  /** An existing folder that nobody else uses. */
  readonly folder: string;
  /** All that pages' bytes depend on. */
  readonly fingerprint: string;
  readonly budgetBytes: number;
  /** Tokens of a block, and bytes of its pages. */
  readonly block: number;
  readonly payloadBytes: number;
  /** What a namespace is called in keys: the same after a restart. */
  readonly nameOf: (namespace: string) => string;
}

const KEY_BYTES = 16;
/** Most bytes that wait to be written; then giving up waits for the disk. */
const QUEUE_BYTES = 32 * 2 ** 20;
/** A block among so many of the oldest, in parts of all, is written anew rather than kept. */
const OLD = 0.75;
const GROUP = 0;

export class PrefixTier implements LowerPrefixes {
  readonly #options: PrefixTierOptions;
  readonly #store: BlockStore;
  readonly #serials = new Map<string, number>();
  readonly #keys = new Map<number, string>();
  #newest = 0;

  /** Takes over what is whole in the folder. Throws OUT_OF_BUDGET where the budget does not hold two blocks. */
  constructor(options: PrefixTierOptions) {
    this.#options = options;
    const metaBytes = KEY_BYTES + 4 * options.block;
    const recordBytes = recordBytesFor(metaBytes, options.payloadBytes);
    const { store, found } = openStore(
      {
        folder: options.folder,
        fingerprint: options.fingerprint,
        recordBytes: [recordBytes],
        headBytes: [headBytesFor(metaBytes)],
        budgetBytes: options.budgetBytes,
        queueBytes: Math.max(QUEUE_BYTES, 2 * recordBytes),
      },
      ({ serials }) => {
        for (const serial of serials) this.#forget(serial);
      },
    );
    this.#store = store;
    for (const record of found) this.#adopt(record);
  }

  get diskBytes(): number {
    return this.#store.usage().diskBytes;
  }

  take(namespace: string, way: Int32Array, from: number, payloadOf: (at: number) => Uint8Array): void {
    const { block } = this.#options;
    for (const [i, key] of this.#keysOf(namespace, way, way.length).entries()) {
      const at = i * block;
      if (at < from || this.#isKept(key)) continue;
      const tokens = way.subarray(at, at + block);
      const span = { tokens: block, merged: 0, first: at, last: at + block - 1 };
      const serial = this.#store.append(GROUP, span, metaOf(key, tokens), payloadOf(at));
      if (serial !== null) this.#note(key, serial);
    }
  }

  find(namespace: string, prompt: Int32Array, from: number, end: number): number {
    const { block } = this.#options;
    const keys = this.#keysOf(namespace, prompt, end);
    let at = from;
    while (this.#serials.has(keys[at / block] ?? "")) at += block;
    return at - from;
  }

  async read(namespace: string, prompt: Int32Array, from: number, end: number): Promise<Uint8Array[]> {
    const { block, payloadBytes } = this.#options;
    const keys = this.#keysOf(namespace, prompt, end).slice(from / block);
    const serials = keys.map((key) => this.#serials.get(key) ?? -1);
    const records = await this.#store.read(GROUP, serials);
    const payloads: Uint8Array[] = [];
    for (const [i, record] of records.entries()) {
      const at = from + i * block;
      const meta = metaOf(keys[i]!, prompt.subarray(at, at + block));
      if (record?.payload.length !== payloadBytes || !isSame(record.meta, meta)) break;
      payloads.push(record.payload);
    }
    // What is of no use is not to be looked for again.
    if (payloads.length < serials.length) this.#forget(serials[payloads.length]!);
    return payloads;
  }

  /** Everything that was given up is on its way to the disk or lost; the files stay. */
  async dispose(): Promise<void> {
    await this.#store.dispose(false);
  }

  #adopt({ meta, serial }: FoundRecord | BlockRecord): void {
    this.#note(Buffer.from(meta.subarray(0, KEY_BYTES)).toString("hex"), serial);
  }

  #note(key: string, serial: number): void {
    const earlier = this.#serials.get(key);
    if (earlier !== undefined) this.#keys.delete(earlier);
    this.#serials.set(key, serial);
    this.#keys.set(serial, key);
    this.#newest = Math.max(this.#newest, serial);
  }

  #forget(serial: number): void {
    const key = this.#keys.get(serial);
    if (key === undefined) return;
    this.#keys.delete(serial);
    this.#serials.delete(key);
  }

  /** Kept, and not about to be pushed out. */
  #isKept(key: string): boolean {
    const serial = this.#serials.get(key);
    return serial !== undefined && this.#newest - serial <= OLD * this.#serials.size;
  }

  /** Keys of the whole blocks of `tokens` up to `end`. */
  #keysOf(namespace: string, tokens: Int32Array, end: number): string[] {
    const { block, nameOf } = this.#options;
    let hash = createHash("sha256").update(nameOf(namespace)).digest();
    const keys: string[] = [];
    for (let at = 0; at + block <= end; at += block) {
      hash = createHash("sha256")
        .update(hash)
        .update(bytesOf(tokens, at, at + block))
        .digest();
      keys.push(hash.toString("hex", 0, KEY_BYTES));
    }
    return keys;
  }
}

function metaOf(key: string, tokens: Int32Array): Uint8Array {
  const meta = new Uint8Array(KEY_BYTES + 4 * tokens.length);
  meta.set(Buffer.from(key, "hex"));
  meta.set(bytesOf(tokens, 0, tokens.length), KEY_BYTES);
  return meta;
}

const bytesOf = ({ buffer, byteOffset }: Int32Array, from: number, end: number): Uint8Array =>
  new Uint8Array(buffer, byteOffset + 4 * from, 4 * (end - from));

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
