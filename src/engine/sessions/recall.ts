/** What a session with a disk tier has besides: where its blocks lie, what they take, and how a question finds them. */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { Program, ProgramLimits } from "../../backends/contract.js";
import type { CacheLayout } from "../../cache/layout.js";
import type { KvPool } from "../../cache/pool.js";
import type { SequenceCache } from "../../cache/sequence.js";
import { Probe, probeLimits, probePages } from "../../cache/tiers/probe.js";
import type { Recall, Recalled, RecallState } from "../../cache/tiers/recall.js";
import {
  groupsThatRecall,
  type RecallBy,
  type RecallSettings,
  recallBlockBytes,
  recallBytes,
  recallPages,
} from "../../cache/tiers/recall-settings.js";
import { MillraceError } from "../../errors.js";
import { isAlive } from "../../formats/is-alive.js";
import type { Tape } from "../../tape/tape.js";
import type { AdapterIdentity, ModelIdentity } from "../identity.js";

/** A session's tier, as plain data: what messages and files carry. */
export interface RecallSpec {
  readonly diskBytes: number;
  /** Where the session's own folder is made; null: among the system's temporary files. */
  readonly dir: string | null;
  /** Memory for what blocks are found by. */
  readonly summaryBytes: number;
  readonly tokens: number;
  readonly by: RecallBy;
  readonly vectors: number;
  readonly following: number;
  /** Tokens of a block; a multiple of 16. */
  readonly block: number;
  /** Before every answer, for what was appended last; else only when it is asked for. */
  readonly auto: boolean;
}

/** Blocks that may wait to be written, so that no step waits for a disk that is busy for a moment; fewer large ones. */
const QUEUED = { blocks: 16, bytes: 4 * 2 ** 20, leastBlocks: 2 };

export function settingsOf(tape: Tape, layout: CacheLayout, spec: RecallSpec): RecallSettings {
  const block = recallBlockBytes(tape, layout, spec);
  const queueBytes = Math.max(QUEUED.leastBlocks * block, Math.min(QUEUED.blocks * block, QUEUED.bytes));
  return { ...spec, queueBytes };
}

/** What a tier takes of a session's memory besides what the policy needs. */
export interface RecallShare {
  /** Of the pool. */
  readonly pages: number;
  /** Outside it. */
  readonly bytes: number;
}

/** Throws INVALID_ARGUMENT where the policy lets nothing go that could be recalled. */
export function recallShare(tape: Tape, layout: CacheLayout, spec: RecallSpec): RecallShare {
  const endless = { tokens: Number.POSITIVE_INFINITY, step: layout.step };
  const lets = groupsThatRecall(tape, layout).some(
    (group) => group && Number.isFinite(group.policy.capacity(endless)),
  );
  if (!lets) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      "Recall brings back what a policy lets go of, and this session's cache keeps everything that a later token could " +
        "see. Choose a policy such as sinks({ window }), or leave recall out.",
    );
  }
  const questions = spec.by === "tokens" ? 0 : probePages(layout);
  return {
    pages: recallPages(tape, layout, spec.tokens) + questions,
    bytes: recallBytes(tape, layout, settingsOf(tape, layout, spec)),
  };
}

/** What the sessions of one layout ask questions with; null where words alone are looked at. */
export class Questions {
  readonly #program: Program;
  readonly #probe: Probe;

  private constructor(program: Program, probe: Probe) {
    this.#program = program;
    this.#probe = probe;
  }

  static async make(
    tape: Tape,
    layout: CacheLayout,
    pool: KvPool,
    compile: (limits: ProgramLimits) => Promise<Program>,
  ): Promise<Questions> {
    const program = await compile(probeLimits(tape, layout));
    return new Questions(program, new Probe(program, tape, pool, layout));
  }

  /**
   * Finds what a question is about and attends it. Runs the question's tokens once at once, before anything else can
   * run; the sequence must stand still until the promise settles. Throws as `Recall.recall`.
   */
  static async recall(
    questions: Questions | null,
    recall: Recall,
    { cache, adapter }: { readonly cache: SequenceCache; readonly adapter?: number },
    ids: Int32Array,
  ): Promise<Recalled> {
    if (!questions) return recall.recall({ ids });
    const weights = recall.weigh(ids);
    const queries = await questions.#probe.ask(cache, ids, {
      ...(weights && { weights }),
      ...(adapter !== undefined && { adapter }),
    });
    return recall.recall({ ids, queries });
  }

  dispose(): void {
    this.#probe.dispose();
    this.#program.dispose();
  }
}

const PREFIX = "millrace-tier";

/** A path of the session's own for its blocks. Folders that processes of this machine left when they died are removed. */
export function tierFolder(dir: string | null): string {
  const base = dir ?? tmpdir();
  const host = hostname().replaceAll(/[^A-Za-z0-9]/g, "_");
  removeAbandoned(base, new RegExp(`^${PREFIX}-${host}-(\\d+)-[0-9a-f]+$`));
  return join(base, `${PREFIX}-${host}-${process.pid}-${randomBytes(6).toString("hex")}`);
}

function removeAbandoned(base: string, name: RegExp): void {
  let names: string[] = [];
  try {
    names = readdirSync(base);
  } catch {
    // It is made with the tier.
  }
  for (const each of names) {
    const pid = Number(name.exec(each)?.[1]);
    if (Number.isNaN(pid) || isAlive(pid)) continue;
    rmSync(join(base, each), { recursive: true, force: true });
  }
}

/** A tier as a session file refers to it: a folder beside the file, and what of it is the session's. */
export interface SavedTier {
  readonly spec: RecallSpec;
  readonly folder: string;
  readonly state: RecallState;
}

/** Leaves a session's blocks beside the file that it is saved to. What was left there before stays. */
export async function saveTier(recall: Recall, spec: RecallSpec, path: string): Promise<SavedTier> {
  const folder = `${basename(path)}.tier-${randomBytes(6).toString("hex")}`;
  return { spec, folder, state: await recall.save(join(dirname(path), folder)) };
}

/** Removes what `saveTier` left for a file that was not written. */
export function removeTier(path: string, { folder }: SavedTier): void {
  rmSync(join(dirname(path), folder), { recursive: true, force: true });
}

/** Removes the blocks that earlier savings left beside a file, and that it refers to no more. */
export function removeOldTiers(path: string, tier: SavedTier | null): void {
  const prefix = `${basename(path)}.tier-`;
  try {
    for (const name of readdirSync(dirname(path))) {
      const isTier = name.startsWith(prefix) && /^[0-9a-f]{12}$/.test(name.slice(prefix.length));
      if (!isTier || name === tier?.folder) continue;
      rmSync(join(dirname(path), name), { recursive: true, force: true });
    }
  } catch {
    // The file is saved all the same; they go with the next.
  }
}

/** What blocks of keys and values mean something to. */
export function tierFingerprint(
  { model, tokenizer }: ModelIdentity,
  adapter: AdapterIdentity | null,
  layout: CacheLayout,
): string {
  const parts = [model, tokenizer, layout.fingerprint, ...(adapter ? [adapter.fingerprint] : [])];
  return createHash("sha256").update(parts.join(" ")).digest("hex");
}
