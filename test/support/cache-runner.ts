/** A tiny model on the reference backend with any cache layout, and the dense oracle that evicted caches are held to. */
import type { Backend, KvLayout, LoadedWeights, Program, Region } from "../../src/backends/contract.js";
import { codecs } from "../../src/cache/codecs/index.js";
import type { CacheLayout } from "../../src/cache/layout.js";
import { KvPool } from "../../src/cache/pool.js";
import { Rotations } from "../../src/cache/rotations.js";
import { SequenceCache } from "../../src/cache/sequence.js";
import { buildTape } from "../../src/models/resolve.js";
import type { RopeRef, Tape } from "../../src/tape/tape.js";
import type { TestRandom } from "./random.js";
import { type TinyName, tinyCheckpoint, tinyModel } from "./tiny-models.js";

/** Weights are loaded once per model; a program is compiled per layout. */
export class TinyHost {
  private constructor(
    readonly backend: Backend,
    readonly tape: Tape,
    readonly weights: LoadedWeights,
  ) {}

  static async open(name: TinyName, backend: Backend): Promise<TinyHost> {
    const checkpoint = tinyCheckpoint(tinyModel(name), "gguf");
    const { tape } = await buildTape(checkpoint);
    return new TinyHost(backend, tape, await backend.load(tape, checkpoint));
  }

  async runner(layout: CacheLayout, numPages: number): Promise<CacheRunner> {
    const limits = { maxTokens: layout.step, maxOutputs: layout.step, kv: layout };
    const program = await this.backend.compile(this.tape, this.weights, limits);
    const pool = new KvPool(this.backend, {
      pageBytes: layout.pageBytes,
      budgetBytes: numPages * layout.pageBytes,
    });
    return new CacheRunner(this, layout, pool, program);
  }

  /** As `CacheRunner`, but nothing ever leaves: what is told as dropped is masked, what is moved is rotated anew. */
  async oracle(layout: CacheLayout, capacity: number): Promise<DenseOracle> {
    const groupBytes = layout.groups.map(({ codec, headWidth }) => codecs[codec].groupBytes(headWidth));
    const pageBytes = Math.max(...groupBytes);
    const groups = layout.groups.map(({ codec, headWidth, lanes }, g) => {
      return { codec, headWidth, lanes, pageTokens: Math.floor(pageBytes / groupBytes[g]!) * 16 };
    });
    const kv: KvLayout = { pageBytes, groups };
    const limits = { maxTokens: layout.step, maxOutputs: layout.step, kv };
    const program = await this.backend.compile(this.tape, this.weights, limits);
    return new DenseOracle(this, kv, program, capacity);
  }
}

export class CacheRunner {
  readonly rotations = new Rotations();

  constructor(
    readonly host: TinyHost,
    readonly layout: CacheLayout,
    readonly pool: KvPool,
    readonly program: Program,
  ) {}

  open(): SequenceCache {
    return new SequenceCache(this.pool, this.layout);
  }

  /**
   * Logits after each of `tokens`, run in steps of at most `chunk` and of what the policy takes. An empty cache begins at
   * position `from`.
   */
  async run(
    cache: SequenceCache,
    tokens: readonly number[],
    options: {
      chunk?: number;
      from?: number;
      afterStep?: (tokens: readonly number[]) => void | Promise<void>;
    } = {},
  ): Promise<Float32Array[]> {
    const { chunk = this.layout.step, from = 0, afterStep } = options;
    const logits: Float32Array[] = [];
    for (let at = 0; at < tokens.length; ) {
      const part = tokens.slice(at, at + Math.min(chunk, cache.maxIncoming()));
      const positions = Int32Array.from(part, (_, i) => Math.max(from, cache.nextPosition) + i);
      this.rotations.clear();
      const { slots, views } = cache.prepare(positions, this.rotations);
      await this.program.run({
        tokens: Int32Array.from(part),
        positions,
        outputs: Int32Array.from(part, (_, t) => t),
        spans: [{ start: 0, count: part.length, views }],
        slots,
        rotations: this.rotations.values(),
        arena: this.pool.arena,
      });
      logits.push(...rowsOf(this.program, this.host.tape, part.length));
      await afterStep?.(part);
      at += part.length;
    }
    return logits;
  }

  /** Logits after one more token, with the tokens of a copy of the cache in other slots. `cache` stays as it is. */
  async runShuffled(cache: SequenceCache, token: number, random: TestRandom): Promise<Float32Array[]> {
    using fork = cache.fork();
    const positions = Int32Array.of(fork.nextPosition);
    this.rotations.clear();
    const { slots, views } = fork.prepare(positions, this.rotations);
    const arena = this.host.backend.allocate(this.pool.arena.byteLength);
    const shuffledSlots: Int32Array[] = [];
    for (const [g, view] of views.entries()) {
      const { region, numPages, pageTokens, positionsAt, lanes } = view;
      const rotations = region.int32(view.rotationsAt, numPages);
      const ids = region.int32(view.pageIdsAt, numPages * lanes);
      const at = region.int32(positionsAt, numPages * pageTokens);
      const before = at.slice();
      const { thin } = view;
      const thinRows = thin?.region.int32(thin.rowsAt, numPages) ?? new Int32Array(numPages);
      const whole = this.layout.groups[g]!.pageTokens;
      const { codec, headWidth } = this.layout.groups[g]!;
      const to = shuffle(rotations, thinRows, { whole, thin: pageTokens }, random);
      // Thin keys keep the scales of whole ones: int8 would write them with others.
      const stays = (slot: number) => codec === "int8" && thinRows[Math.floor(slot / pageTokens)] === 1;
      const logCounts = view.logCounts?.float32(0, numPages * pageTokens);
      const counted = logCounts?.slice();
      const shown = view.choice?.shown.int32(0, numPages * pageTokens);
      const chosen = shown?.slice();
      const value = new Float32Array(headWidth);
      const keyOf = (slot: number) =>
        new Float32Array(thinRows[Math.floor(slot / pageTokens)] === 1 ? thin!.width : headWidth);
      const page = (from: Region, slot: number, lane: number) => {
        const id = ids[Math.floor(slot / pageTokens) * lanes + lane]!;
        return from.bytes(id * this.pool.pageBytes, this.pool.pageBytes);
      };
      for (let slot = 0; slot < before.length; slot++) {
        if (to[slot] === -1) continue;
        if (stays(slot)) {
          to[slot] = slot;
          for (let lane = 0; lane < lanes; lane++)
            page(arena, slot, lane).set(page(this.pool.arena, slot, lane));
          continue;
        }
        const key = keyOf(slot);
        at[to[slot]!] = before[slot]!;
        if (logCounts && counted) logCounts[to[slot]!] = counted[slot]!;
        if (shown && chosen) shown[to[slot]!] = chosen[slot]!;
        for (let lane = 0; lane < lanes; lane++) {
          codecs[codec].load(page(this.pool.arena, slot, lane), slot % pageTokens, key, value);
          codecs[codec].store(page(arena, to[slot]!, lane), to[slot]! % pageTokens, key, value);
        }
      }
      shuffledSlots.push(Int32Array.of(to[slots[g]![0]!]!));
    }
    await this.program.run({
      tokens: Int32Array.of(token),
      positions,
      outputs: Int32Array.of(0),
      spans: [{ start: 0, count: 1, views }],
      slots: shuffledSlots,
      rotations: this.rotations.values(),
      arena,
    });
    return rowsOf(this.program, this.host.tape, 1);
  }
}

/** For every slot another one, among the rows that have the same rotation and are thin or are not; -1 where none can be filled. */
function shuffle(
  rotations: Int32Array,
  thinRows: Int32Array,
  pageTokens: { readonly whole: number; readonly thin: number },
  random: TestRandom,
): Int32Array {
  const to = new Int32Array(rotations.length * pageTokens.thin).fill(-1);
  const kindOf = (row: number) => `${rotations[row]} ${thinRows[row]}`;
  for (const kind of new Set(Array.from(rotations, (_, row) => kindOf(row)))) {
    const slots: number[] = [];
    for (let row = 0; row < rotations.length; row++) {
      const tokens = thinRows[row] === 1 ? pageTokens.thin : pageTokens.whole;
      if (kindOf(row) === kind) for (let i = 0; i < tokens; i++) slots.push(row * pageTokens.thin + i);
    }
    for (const [i, j] of random.permutation(slots.length).entries()) to[slots[i]!] = slots[j]!;
  }
  return to;
}

/** What a token is to one group in the next step. */
export interface Visibility {
  readonly hidden: (group: number, position: number) => boolean;
  readonly offset: (group: number, position: number) => number;
}

/** Tokens that became part of another, by position; weights as in a plan. */
export interface MergedTokens {
  readonly into: number;
  readonly positions: readonly number[];
  readonly weights: Float32Array;
}

export class DenseOracle {
  readonly #tables: { region: Region; numPages: number; logCounts: Region }[];
  readonly #arena: Region;
  /** [group][lane]: keys as they were stored, by position. */
  readonly #keys: Float32Array[][][];
  /** [group]: how far on the key of each position stands in its page. */
  readonly #moved: Map<number, number>[];
  #length = 0;

  constructor(
    readonly host: TinyHost,
    readonly kv: KvLayout,
    readonly program: Program,
    capacity: number,
  ) {
    let firstPage = 0;
    this.#tables = kv.groups.map(({ lanes, pageTokens }) => {
      const numPages = Math.ceil(capacity / pageTokens);
      const ids = numPages * lanes.length;
      const region = host.backend.allocate(4 * (ids + numPages * pageTokens + numPages));
      region.int32(0, ids).forEach((_, i, array) => {
        array[i] = firstPage + i;
      });
      region.int32(4 * ids, numPages * pageTokens + numPages).fill(-1);
      firstPage += ids;
      const logCounts = host.backend.allocate(4 * numPages * pageTokens);
      return { region, numPages, logCounts };
    });
    this.#arena = host.backend.allocate(firstPage * kv.pageBytes);
    this.#keys = kv.groups.map(({ lanes }) => lanes.map(() => []));
    this.#moved = kv.groups.map(() => new Map());
  }

  async run(tokens: readonly number[], { hidden, offset }: Visibility): Promise<Float32Array[]> {
    const positions = Int32Array.from(tokens, (_, i) => this.#length + i);
    this.#length += tokens.length;
    const views = this.kv.groups.map(({ codec, lanes, pageTokens }, g) => {
      const { region, numPages, logCounts } = this.#tables[g]!;
      const positionsAt = 4 * numPages * lanes.length;
      const at = region.int32(positionsAt, numPages * pageTokens);
      for (let p = 0; p < this.#length; p++) at[p] = hidden(g, p) ? -1 : p;
      this.#moveKeys(g, positions[0]!, (position) => offset(g, position));
      const rotationsAt = positionsAt + 4 * numPages * pageTokens;
      const shape = {
        codec,
        lanes: lanes.length,
        pageTokens,
        numPages,
        mass: null,
        logCounts,
        thin: null,
        queries: null,
        next: null,
      };
      return { ...shape, region, pageIdsAt: 0, positionsAt, rotationsAt };
    });
    await this.program.run({
      tokens: Int32Array.from(tokens),
      positions,
      outputs: Int32Array.from(tokens, (_, t) => t),
      spans: [{ start: 0, count: tokens.length, views }],
      slots: views.map(() => positions),
      rotations: new Float64Array(0),
      arena: this.#arena,
    });
    const logits = rowsOf(this.program, this.host.tape, tokens.length);
    this.#remember(positions);
    return logits;
  }

  /** Makes the token at position `into` of a group what a plan's merge says; its parts are hidden by `run`. */
  merge(merged: number, { into, positions, weights }: MergedTokens): void {
    const all = [into, ...positions];
    const { pageTokens } = this.kv.groups[merged]!;
    let lane = 0;
    this.#each((group, keys, width, page, codec, layer) => {
      if (group !== merged) return;
      const [key, value] = [new Float32Array(width), new Float32Array(width)];
      const [keySum, valueSum] = [new Float64Array(width), new Float64Array(width)];
      for (const [i, position] of all.entries()) {
        codec.load(page(position), position % pageTokens, key, value);
        const weight = weights[lane * all.length + i]!;
        for (let d = 0; d < width; d++) {
          keySum[d]! += weight * key[d]!;
          valueSum[d]! += weight * value[d]!;
        }
      }
      codec.store(page(into), into % pageTokens, Float32Array.from(keySum), Float32Array.from(valueSum));
      codec.load(page(into), into % pageTokens, key, value);
      const rope = this.#ropeOf(layer);
      keys[into] = rope ? rotated(key, rope, -(this.#moved[merged]!.get(into) ?? 0)) : key;
      lane++;
    });
    const logCounts = this.#tables[merged]!.logCounts.float32(0, Math.max(...all) + 1);
    const counts = all.map((position) => Math.round(Math.exp(logCounts[position]!)));
    logCounts[into] = Math.log(counts.reduce((sum, count) => sum + count, 0));
  }

  /** Makes zeros of all but `elements` [lanes, width] of a group's keys at these positions, and of no other bit. */
  thin(thinned: number, positions: readonly number[], elements: Int32Array): void {
    let lane = 0;
    this.#each((group, keys, width, page, codec) => {
      if (group !== thinned) return;
      const kept = elements.length / this.kv.groups[group]!.lanes.length;
      const stay = new Set(elements.subarray(lane * kept, (lane + 1) * kept));
      lane++;
      const bytes = { f32: 4, f16: 2, int8: 1 }[codec.name];
      for (const position of positions) {
        const slot = position % this.kv.groups[group]!.pageTokens;
        const keysAt = Math.floor(slot / 16) * codec.groupBytes(width) + (codec.name === "int8" ? 128 : 0);
        for (let i = 0; i < width; i++) {
          if (stay.has(i)) continue;
          const at = keysAt + (i * 16 + (slot % 16)) * bytes;
          page(position).fill(0, at, at + bytes);
          keys[position]![i] = 0;
        }
      }
    });
  }

  #remember(positions: Int32Array): void {
    this.#each((group, keys, width, page, codec) => {
      for (const position of positions) {
        const key = new Float32Array(width);
        codec.load(
          page(position),
          position % this.kv.groups[group]!.pageTokens,
          key,
          new Float32Array(width),
        );
        keys[position] = key;
      }
    });
  }

  /** Stores the keys of group `moved` that have an offset as if their tokens stood that much further on. */
  #moveKeys(moved: number, before: number, offset: (position: number) => number): void {
    this.#each((group, keys, width, page, codec, layer) => {
      const rope = this.#ropeOf(layer);
      if (group !== moved || !rope) return;
      for (let position = 0; position < before; position++) {
        const by = offset(position);
        if (by === 0 && !this.#moved[moved]!.has(position)) continue;
        this.#moved[moved]!.set(position, by);
        const slot = position % this.kv.groups[group]!.pageTokens;
        const value = new Float32Array(width);
        codec.load(page(position), slot, new Float32Array(width), value);
        codec.store(page(position), slot, rotated(keys[position]!, rope, by), value);
      }
    });
  }

  #ropeOf(layer: number): RopeRef | null {
    const found = this.host.tape.ops.find((op) => op.op === "attention" && op.layer === layer);
    return found?.op === "attention" ? found.rope : null;
  }

  #each(
    act: (
      group: number,
      keys: Float32Array[],
      width: number,
      page: (position: number) => Uint8Array,
      codec: (typeof codecs)[keyof typeof codecs],
      layer: number,
    ) => void,
  ): void {
    for (const [g, { codec, lanes, pageTokens, headWidth }] of this.kv.groups.entries()) {
      const { region, numPages } = this.#tables[g]!;
      const ids = region.int32(0, numPages * lanes.length);
      for (const [lane, { layer }] of lanes.entries()) {
        const page = (position: number) => {
          const id = ids[Math.floor(position / pageTokens) * lanes.length + lane]!;
          return this.#arena.bytes(id * this.kv.pageBytes, this.kv.pageBytes);
        };
        act(g, this.#keys[g]![lane]!, headWidth, page, codecs[codec], layer);
      }
    }
  }
}

/** The key of a token as it would be `by` positions further on, rotated in double precision. */
function rotated(key: Float32Array, rope: RopeRef, by: number): Float32Array {
  const out = key.slice();
  const pairs = rope.frequencies.length;
  for (let i = 0; i < pairs; i++) {
    const [a, b] = rope.style === "interleaved" ? [2 * i, 2 * i + 1] : [i, i + pairs];
    const angle = by * rope.frequencies[i]!;
    out[a] = key[a]! * Math.cos(angle) - key[b]! * Math.sin(angle);
    out[b] = key[a]! * Math.sin(angle) + key[b]! * Math.cos(angle);
  }
  return out;
}

function rowsOf(program: Program, tape: Tape, count: number): Float32Array[] {
  const { width } = tape.logits;
  const all = program.logits();
  return Array.from({ length: count }, (_, t) => all.slice(t * width, (t + 1) * width));
}

/** Largest difference of two runs' logits. */
export function difference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  if (a.length !== b.length) throw new Error(`${a.length} rows against ${b.length}`);
  let most = 0;
  for (const [r, row] of a.entries()) {
    for (let v = 0; v < row.length; v++) {
      const d = Math.abs(row[v]! - b[r]![v]!);
      if (!(d <= most)) most = d;
    }
  }
  return most;
}
