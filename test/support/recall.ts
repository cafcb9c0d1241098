/** Sequences with a tier below them, for tests. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CacheLayout } from "../../src/cache/layout.js";
import type { KvPool } from "../../src/cache/pool.js";
import { SequenceCache } from "../../src/cache/sequence.js";
import { Recall } from "../../src/cache/tiers/recall.js";
import type { RecallSettings } from "../../src/cache/tiers/recall-settings.js";
import type { Tape } from "../../src/tape/tape.js";

/** A folder that is gone after the tests of a file. */
export class Folders {
  readonly root = mkdtempSync(join(tmpdir(), "millrace-recall-"));
  #next = 0;

  /** A path where nothing is. */
  fresh(): string {
    return join(this.root, `tier-${this.#next++}`);
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

export const SETTINGS: RecallSettings = {
  diskBytes: 2 ** 24,
  summaryBytes: 2 ** 20,
  queueBytes: 2 ** 20,
  tokens: 64,
  by: "tokens",
  vectors: 2,
  following: 0,
};

/** An empty cache that demotes to a tier. */
export async function openRecall(
  { pool, layout, tape }: { pool: KvPool; layout: CacheLayout; tape: Tape },
  folder: string,
  settings: Partial<RecallSettings> = {},
): Promise<{ cache: SequenceCache; recall: Recall }> {
  const cache = new SequenceCache(pool, layout);
  const all = { ...SETTINGS, ...settings };
  const recall = await Recall.create({ cache, pool, tape, fingerprint: "test", folder, settings: all });
  return { cache, recall };
}
