/** How long a session takes to be saved and restored, and whether it then goes on as if nothing had been. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CodecName } from "../cache/codecs/contract.js";
import { full } from "../engine/policies.js";
import { MillraceError } from "../errors.js";
import type { Model } from "../session/model.js";
import { median } from "./median.js";

export interface SavingOptions {
  /** Pages and tables that the session shall hold. */
  readonly bytes: number;
  readonly runs: number;
  readonly codec: CodecName;
  /** Folder for its files; default: the system's for temporary ones. */
  readonly dir?: string;
  readonly signal?: AbortSignal;
  /** While the session is filled. */
  readonly onProgress?: (tokens: number, of: number) => void;
}

export interface SavingResult {
  /** What the session held, in tokens and in pages and tables. */
  readonly tokens: number;
  readonly bytes: number;
  readonly fileBytes: number;
  /** Milliseconds of each run. */
  readonly saveMs: readonly number[];
  readonly restoreMs: readonly number[];
  readonly medianSaveMs: number;
  readonly medianRestoreMs: number;
  /** Tokens that the session and each restored one said next, greedily and by chance: the same ones, if `identical`. */
  readonly continued: number;
  readonly identical: boolean;
}

const CHUNK = 1024;
const CONTINUED = 64;
/** For what is said afterwards: twice, and an end token each. */
const ROOM = 2 * CONTINUED + 2;

/** Fills a session, saves and restores it, and compares what comes next. Throws what sessions throw. */
export async function measureSaving(model: Model, options: SavingOptions): Promise<SavingResult> {
  const { bytes, runs, codec, dir = tmpdir(), signal, onProgress } = options;
  const folder = await mkdtemp(join(dir, "millrace-saving-"));
  try {
    const { vocabularySize } = model.info;
    await using session = model.session({ cache: { policy: full(), codec }, memory: bytes });
    const tokens = (await session.opened).capacity - ROOM;
    if (tokens < 1) {
      throw new MillraceError("OUT_OF_BUDGET", `A session of ${bytes} bytes is too small to measure.`, {
        bytes,
      });
    }
    for (let at = 0; at < tokens; at += CHUNK) {
      const ids = Array.from(
        { length: Math.min(CHUNK, tokens - at) },
        (_, i) => ((at + i) * 7919) % vocabularySize,
      );
      await session.append(ids, signal ? { signal } : {});
      onProgress?.(Math.min(tokens, at + CHUNK), tokens);
    }
    const path = join(folder, "session.mill");
    const [saveMs, restoreMs]: [number[], number[]] = [[], []];
    let fileBytes = 0;
    const { kept, bytes: held } = session.report;
    for (let run = 0; run < runs; run++) {
      const startedAt = performance.now();
      fileBytes = await session.save(path);
      const savedAt = performance.now();
      await using _restored = await model.restore(path);
      restoreMs.push(performance.now() - savedAt);
      saveMs.push(savedAt - startedAt);
    }
    await using restored = await model.restore(path);
    let identical = true;
    let continued = 0;
    for (const temperature of [0, 1]) {
      const next = { maxTokens: CONTINUED, ignoreEos: true, temperature, seed: 1 };
      const [one, other] = await Promise.all([session.generate(next).result, restored.generate(next).result]);
      identical &&= one.tokens.join() === other.tokens.join();
      continued += one.tokens.length;
    }
    return {
      tokens: kept,
      bytes: held,
      fileBytes,
      saveMs,
      restoreMs,
      medianSaveMs: median(saveMs),
      medianRestoreMs: median(restoreMs),
      continued,
      identical,
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
