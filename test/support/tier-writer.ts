/** A process that fills a tier folder until it is killed: argv is the folder. Prints each serial that is surely written. */
import { type BlockSpan, headBytesFor, recordBytesFor } from "../../src/cache/tiers/files.js";
import { BlockStore } from "../../src/cache/tiers/store.js";

export const META_BYTES = 40;
export const PAYLOAD_BYTES = 3000;
export const RECORD_BYTES = recordBytesFor(META_BYTES, PAYLOAD_BYTES);
export const HEAD_BYTES = headBytesFor(META_BYTES);

export const spanOf = (serial: number): BlockSpan => ({
  tokens: 1 + (serial % 16),
  merged: serial % 5,
  first: 16 * serial,
  last: 16 * serial + 15,
});

/** What a record holds: bytes that follow from its serial. */
export function contentsOf(serial: number): { meta: Uint8Array; payload: Uint8Array } {
  return {
    meta: Uint8Array.from({ length: META_BYTES }, (_, i) => serial + i),
    payload: Uint8Array.from({ length: PAYLOAD_BYTES }, (_, i) => serial * 7 + i * 3),
  };
}

export async function fill(folder: string): Promise<void> {
  const store = new BlockStore(
    {
      folder,
      fingerprint: "test",
      recordBytes: [RECORD_BYTES],
      headBytes: [HEAD_BYTES],
      budgetBytes: 64 * 2 ** 20,
      queueBytes: 2 ** 16,
    },
    () => {},
  );
  for (let serial = 0; ; serial++) {
    const { meta, payload } = contentsOf(serial);
    store.append(0, spanOf(serial), meta, payload);
    if (serial % 8 !== 7) continue;
    await store.settle();
    process.stdout.write(`${serial}\n`);
  }
}
