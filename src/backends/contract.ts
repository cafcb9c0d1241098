/**
 * A backend is memory and arithmetic, nothing else: it loads weights into memory of its own, compiles a tape, and
 * runs it over one ragged batch per step. It knows nothing of requests, text, sampling or eviction; it reads and
 * writes the pages it is pointed to.
 *
 * One file (or folder) per backend, found by name in resolve.ts. `reference` is the living definition of every op;
 * the others are held to it by one conformance suite.
 */
import type { CodecName } from "../cache/codecs/contract.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import type { Tape } from "../tape/tape.js";
import type { TrainingArithmetic } from "./training.js";

/** Where the arithmetic can run; the folders and files of this room. */
export type BackendName = "reference" | "null" | "wasm" | "native";

/**
 * A run of backend memory that the host can see. Host views stay valid until `free`; where memory may move (a
 * growing WebAssembly memory), take a fresh view after any allocation.
 */
export interface Region {
  readonly byteLength: number;
  /** Address that kernels use; meaningless to the host except for sums with byte offsets. 64-byte aligned. */
  readonly address: number;
  bytes(byteOffset?: number, length?: number): Uint8Array;
  int32(byteOffset: number, length: number): Int32Array;
  float32(byteOffset: number, length: number): Float32Array;
  /** Idempotent. */
  free(): void;
  /** Gives whole units of memory back to the system; they are zero when they are next read. Absent: it cannot be given. */
  readonly discard?:
    | { readonly unit: number; pages(byteOffset: number, byteLength: number): void }
    | undefined;
}

/** Lanes (one per layer and kv head) that share one page table per sequence. */
export interface KvGroup {
  readonly codec: CodecName;
  /** Tokens per page, a multiple of 16. */
  readonly pageTokens: number;
  readonly lanes: readonly { readonly layer: number; readonly head: number }[];
  readonly headWidth: number;
  /** Whether views of this group may have a `choice`. Default false, and nobody pays. */
  readonly chooses?: boolean;
}

/** How the cache is cut; fixed when a program is compiled. */
export interface KvLayout {
  /** Bytes of one page: one lane, `pageTokens` tokens, keys and values. A multiple of 64. */
  readonly pageBytes: number;
  readonly groups: readonly KvGroup[];
}

/**
 * One page table as kernels read it. Its three int32 arrays lie in `region`:
 *   pageIds   [numPages, lanes]       page number in the arena for each lane
 *   positions [numPages, pageTokens]  original position of the token in a slot, or -1 for an empty slot
 *   rotations [numPages]              row of the step's `rotations`, or -1: how far the page's segment was moved
 * Slot s lies in page floor(s / pageTokens). The order of slots means nothing; positions do.
 */
export interface KvView {
  readonly codec: CodecName;
  readonly lanes: number;
  readonly pageTokens: number;
  readonly numPages: number;
  readonly region: Region;
  readonly pageIdsAt: number;
  readonly positionsAt: number;
  readonly rotationsAt: number;
  /** Where attention adds up the probability that each slot receives. Null: nobody asked. */
  readonly mass: KvMass | null;
  /**
   * f32 [numPages x pageTokens]: natural log of how many tokens a slot stands for, added to its scores: 0 for one, more
   * for several, -Infinity for a slot that is not to be seen.
   * Null: every slot holds one token.
   */
  readonly logCounts: Region | null;
  /** How rows are stored whose keys lack some elements. Null: no row may be. */
  readonly thin: KvThin | null;
  /** Where attention adds up how large queries are. Null: nobody asked. Read from the first table of a chain alone. */
  readonly queries: KvQueries | null;
  /** How queries choose what they attend to of this table, where it is the first of a chain. Absent or null: all. */
  readonly choice?: KvChoice | null;
  /** A further table of the same lanes (another codec, a recalled block), attended together with this one. */
  readonly next: KvView | null;
}

/**
 * How each query chooses the tokens that it attends to. Token after token of a span, for the lanes of the group
 * together, which are all of one layer:
 *
 * - A query chooses where none has yet, where the last that did stands `stride` positions or more before it, or where
 *   its position is a multiple of `every` and it is unlike that one: the cosine of the two is below `similar`. Compared
 *   are means over the query heads of each lane, as they were before they were rotated to their positions.
 * - A token is worth the probability that attention to all that the query sees gives it, summed over lanes and query
 *   heads; then as much as the best of those that stand at most `reach` positions away.
 * - Chosen are the `tokens` that are worth most, of equals the newer; before all others those at positions below
 *   `first`, and the `newest` positions up to the query's own.
 * - A query attends to what it chose itself, or what the last one did that chose and what has been stored since. Where
 *   `wholly`, one that chooses attends to all.
 */
export interface ChoiceRule {
  readonly tokens: number;
  readonly first: number;
  readonly newest: number;
  readonly stride: number;
  readonly every: number;
  readonly similar: number;
  readonly reach: number;
  readonly wholly: boolean;
}

/** Tokens that one span may have where its queries choose. */
export const MOST_CHOOSERS = 31;

/** A rule, and what has been chosen. Both regions are read and written by attention. */
export interface KvChoice {
  readonly rule: ChoiceRule;
  /**
   * int32 [numPages x pageTokens]: bit 31 of the slots that were chosen last, bit t of those that token t of the span
   * attends to. 0 for a token that is stored.
   */
  readonly shown: Region;
  /** int32: position of the query that chose last, -1: none has; then f32 [lanes, D]: that query, as it is compared. */
  readonly chooser: Region;
}

/** What attention adds up for a table. Of tables that are chained, the first one's `from` and `tempered` hold for all. */
export interface KvMass {
  /** f32 [lanes, numPages x pageTokens]. */
  readonly region: Region;
  /** Queries at positions below give nothing. */
  readonly from: number;
  /** Null: the probabilities are those of attention itself. */
  readonly tempered: Tempered | null;
}

/**
 * Keys of which only some elements are stored: to a query the others are zero. In a thin row a key has `width` elements
 * (the K of codecs/contract.ts) and a page more tokens than in others, which leave the rest of their slots empty.
 * Two int32 arrays lie in `region`:
 *   elements  [lanes, width]   which ones are stored, ascending
 *   rows      [numPages]       1 where the table's row is thin, else 0
 */
export interface KvThin {
  /** At most the head width. */
  readonly width: number;
  readonly region: Region;
  readonly elementsAt: number;
  readonly rowsAt: number;
}

/** Sums of squares of the elements of queries, over tokens and the query heads of each lane. */
export interface KvQueries {
  /** f32 [lanes, D]; a step adds to it. */
  readonly region: Region;
  /** Queries at positions below count for nothing. */
  readonly from: number;
}

/**
 * A softmax beside attention's own, of (score + noise x gumbel) / temperature, from which mass is taken. The Gumbel
 * noise is a function of seed, lane, query head and the positions of query and key (gumbel.ts).
 */
export interface Tempered {
  /** Above 0. */
  readonly temperature: number;
  readonly noise: number;
  /** An int32. */
  readonly seed: number;
}

/** Pages of a sequence that lie in an arena of their own, cut in a way of their own. */
export interface KvPages {
  /** Any that holds every lane of the tape once. Not to change. */
  readonly kv: KvLayout;
  readonly arena: Region;
  /** By group of `kv`: for each token of the span the slot, in its first view, where `append` stores it, [count]. */
  readonly slots: readonly Int32Array[];
}

/**
 * One sequence's share of a batch: tokens start .. start+count-1 of the step. Sequences with different adapters, layouts
 * and arenas share a step: only what touches their pages is done for each by itself.
 */
export interface Span {
  readonly start: number;
  readonly count: number;
  /** By group of the layout. */
  readonly views: readonly KvView[];
  /** Absent: the pages lie in the step's arena, cut as the program was compiled for. */
  readonly pages?: KvPages;
  /** Number of the adapter that its `lowRank` ops apply; absent: none. */
  readonly adapter?: number;
}

/** Everything that changes from step to step. Arrays are read during `run` only. */
export interface Step {
  /** Token ids, [T]. */
  readonly tokens: Int32Array;
  /** Position of each token in its stream, [T]; >= 0. */
  readonly positions: Int32Array;
  /** Token rows whose logits are wanted, [R], ascending. */
  readonly outputs: Int32Array;
  /** Token rows whose states are wanted, [S], ascending, whether their logits are or not. Absent: none. */
  readonly states?: Int32Array;
  readonly spans: readonly Span[];
  /**
   * By group: for each token the slot, in its span's first view, where `append` stores it, [T]. Not read for spans with
   * pages of their own.
   */
  readonly slots: readonly Int32Array[];
  /** Offsets (in positions, may be negative) by which a segment's queries are rotated; see KvView.rotations. */
  readonly rotations: Float64Array;
  readonly arena: Region;
}

export interface ProgramLimits {
  /** Largest T of a step. */
  readonly maxTokens: number;
  /** Largest R of a step. */
  readonly maxOutputs: number;
  /** Largest S of a step. Absent: 0. */
  readonly maxStates?: number;
  /** How the caches are cut of sequences that say nothing else. */
  readonly kv: KvLayout;
  /**
   * Gives every buffer, or those with these ids, memory of its own, so that `Program.read` works for them (tests,
   * probes). Otherwise buffers whose lives do not overlap may share memory, and only those that no op reads are sure
   * to survive.
   */
  readonly keepBuffers?: boolean | readonly number[];
}

export interface Program {
  /**
   * Runs one step; resolves when its logits and pages are written. Not re-entrant.
   * Throws INVALID_ARGUMENT where the step exceeds the limits or contradicts itself, INVALID_TOKEN for an id outside
   * the embedding; nothing has been computed then.
   */
  run(step: Step): Promise<void>;
  /** Logits of the last step, [R, V] row-major; valid until the next `run`. */
  logits(): Float32Array;
  /** States of the last step, [S, E] row-major; valid until the next `run`. Empty where the tape has none. */
  states(): Float32Array;
  /**
   * Contents of a buffer after the last step (tests and probes), [rows, width].
   * Throws INVALID_ARGUMENT where its memory was reused; see `ProgramLimits.keepBuffers`.
   */
  read(bufferId: number): Float32Array;
  dispose(): void;
}

/** Bytes a tape will take, known before anything is allocated. */
export interface MemoryPlan {
  readonly weightBytes: number;
  readonly scratchBytes: number;
}

export interface LoadProgress {
  readonly loadedBytes: number;
  readonly totalBytes: number;
}

export interface Backend {
  readonly name: BackendName;
  /** One line for people: instruction set, threads, build. */
  readonly description: string;
  readonly numThreads: number;

  plan(tape: Tape, limits: ProgramLimits): MemoryPlan;
  /** Throws OUT_OF_BUDGET where the machine refuses. Memory is zeroed. */
  allocate(byteLength: number): Region;
  /** Streams the tape's weights from the checkpoint into backend memory, repacked for its kernels. */
  load(
    tape: Tape,
    checkpoint: Checkpoint,
    onProgress?: (progress: LoadProgress) => void,
  ): Promise<LoadedWeights>;
  compile(tape: Tape, weights: LoadedWeights, limits: ProgramLimits): Promise<Program>;
  /** Copies bytes between regions (copy-on-write of pages). */
  copy(from: Region, fromByte: number, to: Region, toByte: number, byteLength: number): void;
  /** What training needs beside inference, with memory of its own; absent where a backend cannot train. */
  training?(): TrainingArithmetic;
  dispose(): Promise<void>;
}

/** Opaque to all but the backend that made it. Shared by every program of the same tape. */
export interface LoadedWeights {
  readonly byteLength: number;
  dispose(): void;
}

export interface BackendOptions {
  /** Threads that compute, the calling one included. Default: the machine's cores. */
  readonly threads?: number;
}
