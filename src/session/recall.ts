/** What a session's disk tier may be told, checked. */
import type { RecallBy } from "../cache/tiers/recall-settings.js";
import { parseBytes } from "../engine/bytes.js";
import { invalid, oneOf, refuseUnknown, wholeNumber } from "../engine/options.js";
import type { RecallSpec } from "../engine/sessions/recall.js";

/** Where a session keeps what its policy takes out of memory, and how that is brought back. */
export interface RecallOptions {
  /** Hard limit on what lies on disk: bytes, or "2 GiB". What is oldest goes when it is reached, and counts as dropped. */
  readonly disk: number | string;
  /** Folder in which the session makes its own. Default: the system's folder for temporary files. */
  readonly dir?: string;
  /**
   * Memory, of the session's, for what blocks are found by. Default "8 MiB", or an eighth of the session's memory where
   * that is less. When it is full, old blocks are found more coarsely.
   */
  readonly memory?: number | string;
  /**
   * Most tokens that are brought back at once, in whole blocks. Default 256. What the cache itself still holds of what is
   * asked about takes its place among them, two stretches of it all: what was said long ago misleads where newer is there.
   */
  readonly tokens?: number;
  /**
   * Tokens of a block: what is brought back, or not, together. A multiple of 16. Default 16: small ones leave more room for
   * what is asked about.
   */
  readonly block?: number;
  /**
   * What tells that a block is what a question asks about. "tokens" (the default): words of the question stand in it
   * that are rare in the stream, and in the questions asked before; of blocks that match about equally well, the newest.
   * "keys": its keys are near to the queries that the model makes of the question, which is run once more for that.
   * "both": the sum of the two.
   */
  readonly by?: RecallBy;
  /** Vectors that stand for a block's keys in each lane. Default 2. */
  readonly vectors?: number;
  /** Blocks that come with each chosen one: those that follow it. Default 0. */
  readonly following?: number;
  /**
   * Recall before every answer, for what was appended last; the last 64 tokens appended then wait until more follow or an
   * answer is asked for. Default true; false: only when `Session.recall` is called.
   */
  readonly auto?: boolean;
}

const OPTIONS: readonly (keyof RecallOptions)[] = [
  "disk",
  "dir",
  "memory",
  "tokens",
  "block",
  "by",
  "vectors",
  "following",
  "auto",
];
const WAYS: readonly RecallBy[] = ["keys", "tokens", "both"];
const SUMMARY_BYTES = 8 * 2 ** 20;

/** Plain data of what was given, with defaults. Throws INVALID_ARGUMENT. */
export function recallSpec(options: RecallOptions, memoryBytes: number | null): RecallSpec {
  refuseUnknown("recall", options, OPTIONS);
  const { disk, dir, memory, auto = true } = options;
  if (disk === undefined) throw invalid("recall.disk", disk, 'a size such as "2 GiB"');
  if (dir !== undefined && (typeof dir !== "string" || dir === ""))
    throw invalid("recall.dir", dir, "a folder");
  if (typeof auto !== "boolean") throw invalid("recall.auto", auto, "true or false");
  const block = wholeNumber("recall.block", options.block, 16, 4096) ?? 16;
  if (block % 16 !== 0) throw invalid("recall.block", block, "a multiple of 16");
  const share = memoryBytes === null ? SUMMARY_BYTES : Math.min(SUMMARY_BYTES, Math.floor(memoryBytes / 8));
  return {
    diskBytes: parseBytes(disk, "recall.disk"),
    dir: dir ?? null,
    summaryBytes: memory === undefined ? share : parseBytes(memory, "recall.memory"),
    tokens: wholeNumber("recall.tokens", options.tokens, block) ?? Math.max(256, block),
    by: oneOf("recall.by", options.by, WAYS) ?? "tokens",
    vectors: wholeNumber("recall.vectors", options.vectors, 1, 64) ?? 2,
    following: wholeNumber("recall.following", options.following, 0, 64) ?? 0,
    block,
    auto,
  };
}
