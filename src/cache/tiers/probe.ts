/**
 * Asks a model what a question looks for: runs the question's tokens once beside a cache, which stays as it is, and
 * reads their queries. Their keys and values go to pages of the probe's own, which are given back at once.
 */
import type { KvView, Program, ProgramLimits } from "../../backends/contract.js";
import type { RopeRef, Tape } from "../../tape/tape.js";
import type { CacheLayout } from "../layout.js";
import { full } from "../policies/full.js";
import type { KvPool } from "../pool.js";
import { Rotations } from "../rotations.js";
import type { SequenceCache } from "../sequence.js";
import { TableView } from "../view.js";
import { fillAngles, unrotate } from "./summary.js";

/** Tokens of a question that are asked for, the last ones; a longer one is about them all the more. */
export const PROBE_TOKENS = 64;

/** What a probe's program is to be compiled for. */
export function probeLimits(tape: Tape, layout: CacheLayout): ProgramLimits {
  const keepBuffers = attentionsOf(tape).map(({ q }) => q.id);
  return { maxTokens: PROBE_TOKENS, maxOutputs: 1, kv: layout, keepBuffers };
}

/** Pages that a probe takes of the pool while it runs. */
export function probePages(layout: CacheLayout): number {
  return layout.groups.reduce(
    (sum, { lanes, pageTokens }) => sum + lanes.length * Math.ceil(PROBE_TOKENS / pageTokens),
    0,
  );
}

/** What `Probe.ask` found, by layer and kv head: [queries, D], turned back to position 0. */
export type Queries = (layer: number, head: number) => Float32Array;

export class Probe {
  readonly #program: Program;
  readonly #tape: Tape;
  readonly #pool: KvPool;
  readonly #tables: readonly TableView[];

  /** @param program Compiled for `probeLimits`; the caller's to dispose of. Throws OUT_OF_BUDGET. */
  constructor(program: Program, tape: Tape, pool: KvPool, layout: CacheLayout) {
    this.#program = program;
    this.#tape = tape;
    this.#pool = pool;
    this.#tables = layout.groups.map(
      (group) =>
        new TableView(
          pool.backend,
          { ...group, policy: full(), thin: null },
          Math.ceil(PROBE_TOKENS / group.pageTokens),
        ),
    );
  }

  /**
   * Queries of a question that would follow what the cache has seen, at most `PROBE_TOKENS` of its tokens: their sum
   * over the query heads of a kv head, since that is what the keys of a lane meet, and their mean over the tokens by
   * `weights` (all alike by default), or with `each` one by one. `adapter`: the number of the sequence's, if it has one.
   * The sequence must not run meanwhile. Throws OUT_OF_BUDGET where the pool lacks the pages, and what `Program.run` throws.
   */
  async ask(
    cache: SequenceCache,
    ids: Int32Array,
    options: {
      readonly weights?: ArrayLike<number>;
      readonly each?: boolean;
      readonly adapter?: number;
    } = {},
  ): Promise<Queries> {
    const skipped = Math.max(0, ids.length - PROBE_TOKENS);
    const tokens = ids.subarray(skipped);
    const positions = Int32Array.from(tokens, (_, i) => cache.nextPosition + i);
    const { weights, each = false, adapter } = options;
    await this.#run(cache, tokens, positions, adapter);
    const weightOf = (t: number) => (weights ? weights[skipped + t]! : 1);
    const byLayer = attentionsOf(this.#tape).map(({ q, layer, numHeads, rope }) => {
      const { numKvHeads, headWidth } = this.#tape.kv[layer]!;
      const shape = { numHeads, numKvHeads, headWidth, rope };
      return gather(this.#program.read(q.id), positions, shape, each ? null : weightOf);
    });
    return (layer, head) => byLayer[layer]![head]!;
  }

  dispose(): void {
    for (const table of this.#tables) table.dispose();
  }

  async #run(
    cache: SequenceCache,
    tokens: Int32Array,
    positions: Int32Array,
    adapter: number | undefined,
  ): Promise<void> {
    const rotations = new Rotations();
    cache.aim(rotations);
    const numRows = this.#tables.map(({ pageTokens }) => Math.ceil(tokens.length / pageTokens));
    const taken = this.#tables.map((table, g) => new Int32Array(numRows[g]! * table.lanes));
    const all = new Int32Array(taken.reduce((sum, { length }) => sum + length, 0));
    this.#pool.take(all);
    try {
      let at = 0;
      for (const [g, table] of this.#tables.entries()) {
        const pages = all.subarray(at, at + taken[g]!.length);
        at += pages.length;
        table.pageIds().set(pages);
        table.positions().fill(-1).set(positions);
        table.rotations().fill(-1);
        table.numPages = numRows[g]!;
        table.next = withoutMass(cache.views[g]!);
      }
      const span = { start: 0, count: tokens.length, views: this.#tables };
      await this.#program.run({
        tokens,
        positions,
        outputs: new Int32Array(),
        spans: [adapter === undefined ? span : { ...span, adapter }],
        slots: this.#tables.map(() => Int32Array.from(tokens, (_, i) => i)),
        rotations: rotations.values(),
        arena: this.#pool.arena,
      });
    } finally {
      this.#pool.release(all);
    }
  }
}

interface HeadShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly rope: RopeRef | null;
}

/** Queries [T, H, D] of tokens at `positions`, by kv head: their weighted mean [D], or without weights all [T, D]. */
function gather(
  q: Float32Array,
  positions: Int32Array,
  { numHeads, numKvHeads, headWidth, rope }: HeadShape,
  weightOf: ((t: number) => number) | null,
): Float32Array[] {
  const perKvHead = numHeads / numKvHeads;
  const rows = weightOf ? 1 : positions.length;
  const found = Array.from({ length: numKvHeads }, () => new Float32Array(rows * headWidth));
  const angles = new Float32Array(rope ? positions.length * 2 * rope.frequencies.length : 0);
  if (rope) fillAngles(rope, positions, angles);
  for (let t = 0; t < positions.length; t++) {
    const weight = weightOf?.(t) ?? 1;
    const row = weightOf ? 0 : t * headWidth;
    for (let h = 0; h < numHeads; h++) {
      const at = (t * numHeads + h) * headWidth;
      const query = q.slice(at, at + headWidth);
      if (rope) unrotate(query, rope, angles, t);
      const sum = found[Math.floor(h / perKvHead)]!;
      for (let d = 0; d < headWidth; d++) sum[row + d]! += weight * query[d]!;
    }
  }
  return found;
}

/** By layer. */
const attentionsOf = (tape: Tape) => tape.ops.filter((op) => op.op === "attention");

/** The table alone, attended by queries that give nothing. */
const withoutMass = ({
  codec,
  lanes,
  pageTokens,
  numPages,
  region,
  pageIdsAt,
  positionsAt,
  rotationsAt,
  logCounts,
  thin,
}: KvView): KvView => ({
  codec,
  lanes,
  pageTokens,
  numPages,
  region,
  pageIdsAt,
  positionsAt,
  rotationsAt,
  logCounts,
  thin,
  mass: null,
  queries: null,
  next: null,
});
