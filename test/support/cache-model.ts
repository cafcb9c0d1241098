/**
 * A cache of one sequence without pages: for each lane group the set of positions that it holds. What SequenceCache
 * does by tables and pages is held to this.
 */
import type { KvView, Region } from "../../src/backends/contract.js";
import { codecs } from "../../src/cache/codecs/index.js";
import type { CacheGroup, CacheLayout } from "../../src/cache/layout.js";
import type { KvPool } from "../../src/cache/pool.js";
import type { CacheEvent, Prepared, SequenceCache } from "../../src/cache/sequence.js";

/** Writes what a backend would: a key and value that tell position and lane (exact in every codec). */
export function storeTokens(
  pool: KvPool,
  layout: CacheLayout,
  prepared: Prepared,
  positions: Int32Array,
  tag = 0,
) {
  for (const [g, group] of layout.groups.entries()) {
    const view = prepared.views[g]!;
    for (const [i, position] of positions.entries()) {
      const slot = prepared.slots[g]![i]!;
      for (let lane = 0; lane < group.lanes.length; lane++) {
        const page = pageOf(pool, view, Math.floor(slot / view.pageTokens), lane);
        const { key, value } = contents(group, lane, position, tag);
        codecs[group.codec].store(page, slot % view.pageTokens, key, value);
        const mass = massOf(view, lane);
        if (!mass) continue;
        if (mass[slot] !== 0)
          throw new Error(`Slot ${slot} has mass ${mass[slot]} before its token was seen`);
        mass[slot] = position * 8 + lane + 1;
      }
    }
  }
}

/** Held tokens of a view, by position: rotation row and whether all lanes hold what was stored there. */
export function readTokens(pool: KvPool, group: CacheGroup, view: KvView, tag: (position: number) => number) {
  const tokens = new Map<number, { slot: number; rotation: number }>();
  const positions = view.region.int32(view.positionsAt, view.numPages * view.pageTokens);
  const rotations = view.region.int32(view.rotationsAt, view.numPages);
  const key = new Float32Array(group.headWidth);
  const value = new Float32Array(group.headWidth);
  for (const [slot, position] of positions.entries()) {
    if (position < 0) continue;
    if (tokens.has(position)) throw new Error(`Position ${position} is held twice`);
    for (let lane = 0; lane < group.lanes.length; lane++) {
      const row = Math.floor(slot / view.pageTokens);
      codecs[group.codec].load(pageOf(pool, view, row, lane), slot % view.pageTokens, key, value);
      const want = decoded(group, lane, position, tag(position));
      if (!equal(key, want.key) || !equal(value, want.value)) {
        throw new Error(`Slot ${slot}, lane ${lane}: position ${position} lost its key or value`);
      }
      const mass = massOf(view, lane);
      if (mass && mass[slot] !== position * 8 + lane + 1) {
        throw new Error(`Slot ${slot}, lane ${lane}: position ${position} has mass ${mass[slot]}`);
      }
    }
    tokens.set(position, { slot, rotation: rotations[Math.floor(slot / view.pageTokens)]! });
  }
  return tokens;
}

/** Follows a sequence's events: the positions that each group must hold. */
export class Followed {
  readonly held: Set<number>[];
  readonly lost: { drop: number; demote: number; expire: number; merge: number }[];

  constructor(
    readonly cache: SequenceCache,
    from?: Followed,
  ) {
    this.held = cache.layout.groups.map((_, g) => new Set(from?.held[g]));
    this.lost = cache.layout.groups.map((_, g) => ({
      ...(from?.lost[g] ?? { drop: 0, demote: 0, expire: 0, merge: 0 }),
    }));
    cache.onChange((event) => this.#follow(event));
  }

  stored(positions: Int32Array): void {
    for (const held of this.held) for (const position of positions) held.add(position);
  }

  #follow(event: CacheEvent): void {
    if (event.kind === "move" || event.kind === "settle") return;
    if (event.kind === "recall" || event.kind === "thin") return;
    const held = this.held[event.group]!;
    let count = 0;
    for (const [from, to] of event.ranges) {
      for (let position = from; position <= to; position++) {
        if (held.delete(position)) count++;
        else if (event.kind !== "rewind") throw new Error(`${event.kind} of ${position}, which is not held`);
      }
    }
    if (count !== event.count) throw new Error(`${event.kind} of ${count} tokens, told as ${event.count}`);
    if (event.kind !== "rewind") this.lost[event.group]![event.kind] += count;
  }
}

function contents(group: CacheGroup, lane: number, position: number, tag: number) {
  const at = (i: number) => ((position * 31 + lane * 7 + i * 3 + tag * 11) % 255) - 127;
  const key = Float32Array.from({ length: group.headWidth }, (_, i) => at(i));
  const value = Float32Array.from({ length: group.headWidth }, (_, i) => -at(i + 1));
  return { key, value };
}

/** As `contents`, through the codec. */
function decoded(group: CacheGroup, lane: number, position: number, tag: number) {
  const { key, value } = contents(group, lane, position, tag);
  if (group.codec !== "int8") return { key, value };
  const codec = codecs[group.codec];
  const page = new Uint8Array(codec.groupBytes(group.headWidth));
  codec.store(page, 0, key, value);
  codec.load(page, 0, key, value);
  return { key, value };
}

const equal = (a: Float32Array, b: Float32Array) => a.every((x, i) => x === b[i]);

function massOf({ mass, numPages, pageTokens }: KvView, lane: number): Float32Array | undefined {
  const numSlots = numPages * pageTokens;
  return mass?.region.float32(4 * lane * numSlots, numSlots);
}

function pageOf(pool: KvPool, view: KvView, row: number, lane: number): Uint8Array {
  const region: Region = view.region;
  const id = region.int32(view.pageIdsAt, view.numPages * view.lanes)[row * view.lanes + lane]!;
  return pool.arena.bytes(id * pool.pageBytes, pool.pageBytes);
}
