/**
 * Memory below memory: what one sequence's policies drop goes to disk in blocks (store.ts), is found again by what
 * stays of it in memory (catalogue.ts), and the best blocks for a question are attended as segments between sinks and
 * window (recalled.ts). After ReKV (ICLR 2025), InfLLM-V2 and LeoAM, as far as their ideas are known; they choose per
 * layer, here all lanes of a group choose together, so that a block is one read.
 */
import { rmSync } from "node:fs";
import { type ErrorCode, MillraceError } from "../../errors.js";
import { makeFolder } from "../../formats/cache-folder.js";
import type { RopeRef, Tape } from "../../tape/tape.js";
import type { CacheGroup } from "../layout.js";
import type { LowerTier } from "../lower-tier.js";
import type { KvPool } from "../pool.js";
import type { Rotations } from "../rotations.js";
import type { SequenceCache } from "../sequence.js";
import type { LaneTable } from "../table.js";
import { type BlockMeta, Draft, type DraftToken, decodeMeta, encodeMeta, traitsOf } from "./blocks.js";
import { Catalogue, type Traits } from "./catalogue.js";
import type { BlockRecord, BlockSpan } from "./files.js";
import { HeldTokens } from "./held.js";
import { groupsThatRecall, type RecallSettings, recordSizes } from "./recall-settings.js";
import { RecalledTable } from "./recalled.js";
import { BlockSearch, type RecallQuestion } from "./search.js";
import {
  BlockStore,
  type FoundRecord,
  type Loss,
  openStore,
  type StoreOptions,
  type StoreUsage,
} from "./store.js";
import { copyFolder } from "./store-files.js";
import { Summarizer } from "./summary.js";
import { type SavedTermCounts, StreamTerms, TermQuery, termsOf } from "./terms.js";

/** What one recall brought. */
export interface Recalled {
  /** Tokens and blocks, of the group that got most. */
  readonly tokens: number;
  readonly blocks: number;
  /** By group: original positions as ascending runs. */
  readonly ranges: readonly (readonly (readonly [number, number])[])[];
  /** Blocks that were chosen and could not be read; their tokens count as dropped now. */
  readonly lost: number;
}

/** What the tier holds at this moment. */
export interface TierReport extends StoreUsage {
  readonly folder: string;
  /** Entries by which blocks are found, and the memory that these take. */
  readonly entries: number;
  readonly summaryBytes: number;
  /** Of demoted tokens: those not on disk yet. They are found all the same, and are lost only with the process. */
  readonly waitingTokens: number;
  /** Tokens that are attended again now, of the group that has most. */
  readonly recalledTokens: number;
  /** Why blocks were lost last, other than by the budget; null while none were. */
  readonly problem: { readonly code: ErrorCode; readonly message: string } | null;
}

/** A recall's state beside its folder, as JSON. */
export interface RecallState {
  /** Serials that the folder held for this sequence, by group, as ascending runs. */
  readonly blocks: readonly (readonly (readonly [number, number])[])[];
  /** By group: serials that were attended. */
  readonly recalled: readonly (readonly number[])[];
  /** Ids of tokens that the cache still held, as [position, id]. */
  readonly ids: readonly (readonly [number, number])[];
  /** The words of the questions asked so far; null where words are not looked at. */
  readonly asked: SavedTermCounts | null;
}

/** One group's side of it. */
interface Group {
  readonly group: CacheGroup;
  readonly index: number;
  readonly draft: Draft;
  readonly summarizer: Summarizer | null;
  readonly table: RecalledTable;
  readonly catalogue: Catalogue;
  readonly search: BlockSearch;
}

export interface RecallParts {
  readonly cache: SequenceCache;
  readonly pool: KvPool;
  /** The model's: windows and rotary angles of its layers. */
  readonly tape: Tape;
  /** A line that is the same only where keys and values mean the same: model, tokenizer, layout. */
  readonly fingerprint: string;
  /** Of this sequence alone; made where it is missing. */
  readonly folder: string;
  readonly settings: RecallSettings;
}

export class Recall implements LowerTier {
  readonly folder: string;
  readonly #parts: RecallParts;
  /** Of the stream; null, as `#held`, where words are not looked at. */
  readonly #terms: StreamTerms | null;
  /** In the cache. */
  readonly #held: HeldTokens | null;
  /** By group of the layout; null for layers that look no further back than their own window. */
  readonly #groups: readonly (Group | null)[];
  readonly #store: BlockStore;
  readonly #takers: number;
  #problem: MillraceError | null = null;

  private constructor(parts: RecallParts, makeStore: (onLoss: (loss: Loss) => void) => BlockStore) {
    const { cache, settings } = parts;
    this.#parts = parts;
    this.folder = parts.folder;
    this.#terms = settings.by === "keys" ? null : new StreamTerms();
    const groups = groupsThatRecall(parts.tape, cache.layout);
    this.#takers = groups.filter((group) => group !== null).length;
    this.#held = this.#terms && new HeldTokens(this.#takers);
    this.#store = makeStore((loss) => this.#lost(loss));
    this.#groups = groups.map((group, index) => group && this.#makeGroup(group, index));
  }

  /**
   * A tier for an empty or running cache, which from now on demotes to it. Throws WRITE_FAILED where the folder cannot
   * be made, INVALID_ARGUMENT where it is in use, OUT_OF_BUDGET where a budget is too small for its first blocks.
   */
  static async create(parts: RecallParts): Promise<Recall> {
    return inOwnFolder(parts.folder, async () => {
      const recall = new Recall(parts, (onLoss) => new BlockStore(storeOptions(parts), onLoss));
      parts.cache.demoteTo(recall);
      return recall;
    });
  }

  /**
   * The tier that `save` left in `from`, in a folder of its own, for a cache that was saved at the same time. Blocks
   * that are missing or damaged count as dropped, with a problem in the report: the sequence goes on without them. Throws
   * BAD_FORMAT for a folder of another model or layout, WRITE_FAILED where there is no room for them, and what `create`
   * throws.
   */
  static async restore(parts: RecallParts, from: string, state: RecallState): Promise<Recall> {
    return inOwnFolder(parts.folder, async () => {
      let missing: MillraceError | null = null;
      try {
        await copyFolder(from, parts.folder);
      } catch (error) {
        missing = MillraceError.from(error);
        // They are all still there: nothing needs to be dropped.
        if (missing.code === "WRITE_FAILED") throw missing;
      }
      return Recall.#reopen(parts, state, missing);
    });
  }

  /** The tier that stands in `parts.folder`. */
  static async #reopen(
    parts: RecallParts,
    state: RecallState,
    missing: MillraceError | null,
  ): Promise<Recall> {
    let found: readonly FoundRecord[] = [];
    const recall = new Recall(parts, (onLoss) => {
      const opened = openStore(storeOptions(parts), onLoss);
      found = opened.found;
      return opened.store;
    });
    parts.cache.demoteTo(recall);
    await recall.#adopt(found, state, missing);
    return recall;
  }

  takes(group: number): boolean {
    return this.#groups[group] !== null;
  }

  take(index: number, table: LaneTable): void {
    const group = this.#groups[index];
    if (!group) return;
    const { pageTokens } = table.view;
    const { removals } = table;
    for (let at = 0; at < removals.length; ) {
      const row = Math.floor(removals[at]!.slot / pageTokens);
      const tokens: DraftToken[] = [];
      // Tokens of one row that go one after another are copied together.
      for (; at < removals.length && tokens.length < group.draft.room; at++) {
        const { kind, slot, position, count, moved } = removals[at]!;
        if (Math.floor(slot / pageTokens) !== row) break;
        const id = this.#held?.release(position) ?? -1;
        if (kind === "drop") tokens.push({ slot: slot - row * pageTokens, position, count, id, moved });
      }
      if (tokens.length === 0) continue;
      group.draft.add(tokens, (lane) => table.pageOf(row, lane));
      if (group.draft.room === 0) this.#seal(group);
    }
  }

  rewound(to: number): void {
    this.#held?.rewind(to);
  }

  lent(group: number): number {
    return this.#groups[group]?.table.tokens ?? 0;
  }

  place(group: number, start: number, rotations: Rotations): void {
    this.#groups[group]?.table.place(start, rotations);
  }

  /** Notes the ids of tokens that have just been stored, at ascending positions. */
  saw(positions: ArrayLike<number>, ids: ArrayLike<number>): void {
    this.#held?.note(positions, ids);
  }

  /**
   * Chooses the blocks that a question is most likely about and attends them from the next step on, instead of those
   * recalled before; none where nothing speaks for any. The sequence must not run meanwhile.
   *
   * A block that cannot be read is left out: its tokens count as dropped, and the report says why. Throws
   * INVALID_ARGUMENT where keys count and the question has no queries, OUT_OF_BUDGET where the pool lacks the pages.
   */
  async recall(question: RecallQuestion): Promise<Recalled> {
    const { settings } = this.#parts;
    if (settings.by !== "tokens" && !question.queries) {
      throw new MillraceError("INVALID_ARGUMENT", `A recall by ${settings.by} needs the question's queries.`);
    }
    for (const group of this.#groups) if (group && group.draft.length > 0) this.#seal(group);
    const { ids } = question;
    const terms = this.#terms && TermQuery.of(ids, this.#terms);
    this.heed(ids);
    let lost = 0;
    for (const group of this.#groups) {
      if (!group) continue;
      const serials = await group.search.find(question, terms);
      lost += await this.#lend(group, serials);
    }
    const lent = this.#groups.map((group) => group?.table ?? null);
    return {
      tokens: Math.max(0, ...lent.map((table) => table?.tokens ?? 0)),
      blocks: Math.max(0, ...lent.map((table) => table?.serials.length ?? 0)),
      ranges: lent.map((table) => (table ? runsOf(table.positions) : [])),
      lost,
    };
  }

  /** Counts a question as asked: what its words have in common with those of others says nothing of what it is about. */
  heed(ids: ArrayLike<number>): void {
    this.#terms?.questions.add(termsOf(ids));
  }

  /**
   * How much each token of a question tells, by how rare it is among all blocks and questions, for `Probe.ask`; null where
   * words are not looked at, or none was seen before.
   */
  weigh(ids: ArrayLike<number>): Float64Array | null {
    return this.#terms?.weigh(ids) ?? null;
  }

  /** Where in the stream the tokens of a group lie that the tier holds, written or not. */
  spans(group: number): readonly BlockSpan[] {
    const draft = this.#groups[group]?.draft.meta().positions ?? [];
    const drafted = Array.from(draft, (position) => ({
      tokens: 1,
      merged: 0,
      first: position,
      last: position,
    }));
    return [...this.#store.spans(group), ...drafted];
  }

  /** Original positions of a group's tokens that are attended again. */
  recalledBy(group: number): Int32Array {
    return this.#groups[group]?.table.positions ?? new Int32Array();
  }

  /** There is nothing that could be recalled. */
  get isEmpty(): boolean {
    return this.#groups.every((group) => !group || (group.draft.length === 0 && group.catalogue.isEmpty));
  }

  /** Attends no recalled block any more. */
  forget(): void {
    for (const group of this.#groups) {
      if (!group) continue;
      group.table.clear();
      this.#parts.cache.attend(group.index, null);
    }
  }

  report(): TierReport {
    let entries = 0;
    let summaryBytes = 0;
    let waitingTokens = 0;
    let recalledTokens = 0;
    for (const group of this.#groups) {
      if (!group) continue;
      const usage = group.catalogue.usage();
      entries += usage.entries;
      summaryBytes += usage.bytes;
      waitingTokens = Math.max(waitingTokens, group.draft.length + this.#store.queuedTokens(group.index));
      recalledTokens = Math.max(recalledTokens, group.table.tokens);
    }
    return {
      ...this.#store.usage(),
      folder: this.folder,
      entries,
      summaryBytes,
      waitingTokens,
      recalledTokens,
      problem: this.#problem && { code: this.#problem.code, message: this.#problem.message },
    };
  }

  /** Waits until all demoted tokens are on disk, as far as they make whole blocks. */
  settle(): Promise<void> {
    return this.#store.settle();
  }

  /**
   * Leaves in `folder`, which must not exist, all that `restore` needs beside the state that it returns: links to the
   * same bytes where the file system has them. To be saved together with the cache, without a step between. Throws
   * WRITE_FAILED, with `folder` gone again. Blocks that turn out to be gone count as dropped.
   */
  async save(folder: string): Promise<RecallState> {
    for (const group of this.#groups) if (group && group.draft.length > 0) this.#seal(group);
    return inOwnFolder(folder, async () => {
      await this.#store.copyTo(folder);
      return this.#state();
    });
  }

  /** A tier for a fork of the cache, made at the same time, with the same blocks in a folder of its own. */
  async fork(cache: SequenceCache, folder: string): Promise<Recall> {
    const state = await this.save(folder);
    return Recall.#reopen({ ...this.#parts, cache, folder }, state, null);
  }

  /** Frees what it holds, and removes its folder. Idempotent. */
  async dispose(): Promise<void> {
    for (const group of this.#groups) group?.table.dispose();
    await this.#store.dispose(true);
  }

  #makeGroup(group: CacheGroup, index: number): Group {
    const { tape, pool, settings } = this.#parts;
    const { by, vectors, tokens, summaryBytes } = settings;
    if (tokens < group.pageTokens) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `A recall of ${tokens} tokens is less than one block of ${group.pageTokens}.`,
        { tokens, block: group.pageTokens },
      );
    }
    const ropes = group.lanes.map(({ layer }) => ropeOf(tape, layer));
    const summarizer = by === "tokens" ? null : new Summarizer(group, ropes, vectors);
    const share = Math.floor(summaryBytes / this.#takers);
    const catalogue = new Catalogue(group, summarizer, this.#terms?.blocks ?? null, share);
    return {
      group,
      index,
      draft: new Draft(group),
      summarizer,
      table: new RecalledTable(pool, group, Math.floor(tokens / group.pageTokens)),
      catalogue,
      search: new BlockSearch({
        group,
        index,
        catalogue,
        store: this.#store,
        held: this.#held,
        vectors: summarizer?.vectors ?? 0,
        settings,
      }),
    };
  }

  /** Writes the draft as a block and makes it findable. */
  #seal({ index, draft, summarizer, catalogue }: Group): void {
    const known = draft.meta();
    const meta = { ...known, summary: summarizer?.of(draft.pages, known.positions) ?? null };
    const serial = this.#store.append(index, spanOf(known), encodeMeta(meta), draft.pages);
    if (serial !== null) this.#catalogue(catalogue, serial, traitsOf(meta, this.#terms !== null));
    draft.clear();
  }

  #catalogue(catalogue: Catalogue, serial: number, traits: Traits): void {
    if (traits.terms) this.#terms?.blocks.add(traits.terms);
    catalogue.add(serial, traits);
  }

  /** Lends a group these blocks; returns how many of them could not be read. */
  async #lend(group: Group, serials: readonly number[]): Promise<number> {
    const { cache } = this.#parts;
    const records = await this.#store.read(group.index, serials);
    const blocks = records.flatMap((record) => {
      const meta = record && this.#decode(group, record);
      const whole = record?.payload.length === group.draft.pages.length;
      return record && meta && whole ? [{ ...meta, serial: record.serial, pages: record.payload }] : [];
    });
    cache.attend(group.index, null);
    group.table.load(blocks);
    if (blocks.length > 0) cache.attend(group.index, group.table.view);
    const { positions } = group.table;
    cache.lent(group.index, positions.length, runsOf(positions));
    return serials.length - blocks.length;
  }

  #decode({ group, summarizer }: Group, { meta, tokens }: BlockRecord) {
    return decodeMeta(meta, tokens, group, summarizer?.vectors ?? 0);
  }

  #lost({ group: index, serials, spans, error }: Loss): void {
    if (error) this.#problem = error;
    const group = this.#groups?.[index];
    // While the tier is opened there is nothing to forget yet: what is missing is seen when it is compared.
    if (!group) return;
    group.catalogue.remove(serials);
    const count = spans.reduce((sum, { tokens }) => sum + tokens, 0);
    const merged = spans.reduce((sum, span) => sum + span.merged, 0);
    this.#parts.cache.lose(
      index,
      { count, merged },
      spans.map(({ first, last }) => [first, last] as const),
    );
  }

  /** By position: how many groups that go down to the tier hold the token. */
  #holders(): Map<number, number> {
    const holders = new Map<number, number>();
    for (const group of this.#groups) {
      if (!group) continue;
      for (const { position } of this.#parts.cache.heldBy(group.index)) {
        holders.set(position, (holders.get(position) ?? 0) + 1);
      }
    }
    return holders;
  }

  #state(): RecallState {
    return {
      blocks: this.#groups.map((group) =>
        group ? runsOf(this.#store.serials(group.index, 0, Number.MAX_SAFE_INTEGER)) : [],
      ),
      recalled: this.#groups.map((group) => group?.table.serials ?? []),
      ids: this.#held?.save() ?? [],
      asked: this.#terms?.questions.save() ?? null,
    };
  }

  /** Takes what was found of what a state lists; what is missing counts as dropped. */
  async #adopt(
    found: readonly FoundRecord[],
    state: RecallState,
    missing: MillraceError | null,
  ): Promise<void> {
    const { cache } = this.#parts;
    for (const group of this.#groups) {
      if (!group) continue;
      const runs = state.blocks[group.index] ?? [];
      let tokens = 0;
      for (const record of found) {
        if (record.group !== group.index || !inRuns(runs, record.serial)) continue;
        const meta = this.#decode(group, { ...record, payload: new Uint8Array() });
        if (!meta) continue;
        this.#catalogue(group.catalogue, record.serial, traitsOf(meta, this.#terms !== null));
        tokens += record.tokens;
      }
      const gone = cache.report().groups[group.index]!.demoted - tokens;
      if (gone > 0) {
        this.#problem = missing ?? blocksMissing(this.folder, gone);
        cache.lose(group.index, { count: gone, merged: 0 }, []);
      }
    }
    if (state.asked) this.#terms?.questions.restore(state.asked);
    const holders = this.#holders();
    this.#held?.restore(state.ids, (position) => holders.get(position) ?? 0);
    for (const group of this.#groups) {
      const serials = group ? (state.recalled[group.index] ?? []) : [];
      if (group && serials.length > 0) {
        // No more than there is room for, whatever the state says.
        const there = serials.filter((serial) => this.#store.has(group.index, serial));
        await this.#lend(group, there.slice(0, group.table.maxBlocks));
      }
    }
  }
}

function storeOptions({ cache, tape, fingerprint, folder, settings }: RecallParts): StoreOptions {
  const sizes = recordSizes(tape, cache.layout, settings);
  return {
    folder,
    fingerprint,
    recordBytes: sizes.map(({ record }) => record),
    headBytes: sizes.map(({ head }) => head),
    budgetBytes: settings.diskBytes,
    queueBytes: settings.queueBytes,
  };
}

function ropeOf(tape: Tape, layer: number): RopeRef | null {
  for (const op of tape.ops) if (op.op === "attention" && op.layer === layer) return op.rope;
  return null;
}

function spanOf({ positions, counts }: Pick<BlockMeta, "positions" | "counts">): BlockSpan {
  const first = positions.reduce((a, b) => Math.min(a, b));
  const last = positions.reduce((a, b) => Math.max(a, b));
  const merged = counts.reduce((a, b) => a + b, 0) - counts.length;
  return { tokens: positions.length, merged, first, last };
}

/** Ascending numbers as runs. */
function runsOf(numbers: ArrayLike<number>): [number, number][] {
  const runs: [number, number][] = [];
  for (let i = 0; i < numbers.length; i++) {
    const last = runs.at(-1);
    if (last && last[1] === numbers[i]! - 1) last[1] = numbers[i]!;
    else runs.push([numbers[i]!, numbers[i]!]);
  }
  return runs;
}

const inRuns = (runs: readonly (readonly [number, number])[], wanted: number): boolean =>
  runs.some(([first, last]) => wanted >= first && wanted <= last);

/** What `make` makes in a folder of the tier's own, which is gone again where that fails. */
async function inOwnFolder<T>(folder: string, make: () => Promise<T>): Promise<T> {
  await makeOwnFolder(folder);
  try {
    return await make();
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

async function makeOwnFolder(folder: string): Promise<void> {
  try {
    await makeFolder(folder, 0o700);
  } catch (cause) {
    throw new MillraceError(
      "WRITE_FAILED",
      `The folder ${folder} of the disk tier cannot be made (${cause instanceof Error ? cause.message : cause}).`,
      { folder },
      { cause },
    );
  }
}

const blocksMissing = (folder: string, tokens: number): MillraceError =>
  new MillraceError(
    "BAD_FORMAT",
    `Blocks of ${tokens} tokens are missing or damaged in what was saved to the disk tier ${folder}; they count as ` +
      "dropped. The session goes on.",
    { folder, tokens },
  );
