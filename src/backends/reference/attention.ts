import { codecs } from "../../cache/codecs/index.js";
import { MillraceError } from "../../errors.js";
import type { Op, RopeRef } from "../../tape/tape.js";
import type { KvView, Span, Tempered } from "../contract.js";
import { gumbelIndex, gumbelQuantiles } from "../gumbel.js";
import { rotate } from "./rotate.js";
import { findLane, type Run } from "./state.js";

type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

/** Encodes each token's key and value, lane by lane, into its slot of its span's first view. */
export function append(run: Run, { k, v, layer }: OpOf<"append">): void {
  const { numKvHeads, headWidth: width } = run.tape.kv[layer]!;
  const keys = run.buffers[k.id]!;
  const values = run.buffers[v.id]!;
  for (let head = 0; head < numKvHeads; head++) {
    const { group, lane } = findLane(run.kv, layer, head);
    for (const span of run.step.spans) {
      const view = span.views[group]!;
      for (let t = span.start; t < span.start + span.count; t++) {
        const slot = run.step.slots[group]![t]!;
        const page = pageOf(run, view, Math.floor(slot / view.pageTokens), lane);
        const at = (t * numKvHeads + head) * width;
        codecs[view.codec].store(
          page,
          slot % view.pageTokens,
          keys.subarray(at, at + width),
          values.subarray(at, at + width),
        );
      }
    }
  }
}

/** A stored token of one lane, decoded. */
interface Stored {
  readonly position: number;
  readonly rotation: number;
  readonly key: Float32Array;
  readonly value: Float32Array;
  readonly slot: number;
  readonly logCount: number;
  /** Where the lane's slots add up the probability that they received, if the view asks. */
  readonly mass: Float32Array | null;
}

/** A query that sees no stored token at all gives zeros. */
export function attention(run: Run, op: OpOf<"attention">): void {
  const { numKvHeads } = run.tape.kv[op.layer]!;
  for (let head = 0; head < numKvHeads; head++) {
    const { group, lane } = findLane(run.kv, op.layer, head);
    for (const span of run.step.spans) {
      const stored = gather(run, span, group, lane);
      const giving = span.views[group]!.mass;
      measureQueries(run, op, span, { head, group, lane });
      for (let t = span.start; t < span.start + span.count; t++) {
        const seen = stored.filter(({ position }) => isSeen(position, run.step.positions[t]!, op.window));
        const perKvHead = op.numHeads / numKvHeads;
        for (let h = head * perKvHead; h < (head + 1) * perKvHead; h++) {
          const scores = attend(run, op, t, h, seen);
          if (giving && run.step.positions[t]! < giving.from) continue;
          const query = { lane, head: h, position: run.step.positions[t]! };
          giveMass(seen, giving?.tempered ? temper(scores, seen, query, giving.tempered) : scores);
        }
      }
    }
  }
}

/** Adds the squares of a lane's queries to what its table sums up, if that asks; in f32, token after token. */
function measureQueries(
  run: Run,
  op: OpOf<"attention">,
  span: Span,
  { head, group, lane }: { readonly head: number; readonly group: number; readonly lane: number },
): void {
  const asked = span.views[group]!.queries;
  if (!asked) return;
  const { numKvHeads, headWidth: width } = run.tape.kv[op.layer]!;
  const perKvHead = op.numHeads / numKvHeads;
  const queries = run.buffers[op.q.id]!;
  const sums = asked.region.float32(4 * lane * width, width);
  for (let t = span.start; t < span.start + span.count; t++) {
    if (run.step.positions[t]! < asked.from) continue;
    for (let h = head * perKvHead; h < (head + 1) * perKvHead; h++) {
      const at = (t * op.numHeads + h) * width;
      for (let i = 0; i < width; i++) sums[i] = sums[i]! + queries[at + i]! ** 2;
    }
  }
}

const isSeen = (key: number, query: number, window: number | null): boolean =>
  key >= 0 && key <= query && (window === null || query - key < window);

/** All filled slots of one lane, over the chain of views. */
function gather(run: Run, span: Span, group: number, lane: number): Stored[] {
  const width = run.kv.groups[group]!.headWidth;
  const stored: Stored[] = [];
  for (let view: KvView | null = span.views[group]!; view; view = view.next) {
    const { region, pageTokens, numPages, codec } = view;
    const numSlots = numPages * pageTokens;
    const positions = region.int32(view.positionsAt, numSlots);
    const rotations = region.int32(view.rotationsAt, numPages);
    const mass = view.mass?.region.float32(lane * numSlots * 4, numSlots) ?? null;
    const logCounts = view.logCounts?.float32(0, numSlots);
    const { thin } = view;
    const thinRows = thin?.region.int32(thin.rowsAt, numPages);
    const elements = thin?.region.int32(thin.elementsAt + 4 * lane * thin.width, thin.width);
    for (let page = 0; page < numPages; page++) {
      const isEmpty = positions.subarray(page * pageTokens, (page + 1) * pageTokens).every((p) => p < 0);
      if (isEmpty) continue;
      const bytes = pageOf(run, view, page, lane);
      for (let slot = page * pageTokens; slot < (page + 1) * pageTokens; slot++) {
        const position = positions[slot]!;
        if (position < 0) continue;
        const key = new Float32Array(width);
        const value = new Float32Array(width);
        const at = slot % pageTokens;
        if (elements && thinRows?.[page] === 1) {
          const stored = new Float32Array(elements.length);
          codecs[codec].load(bytes, at, stored, value);
          for (const [i, element] of elements.entries()) key[element] = stored[i]!;
        } else codecs[codec].load(bytes, at, key, value);
        const logCount = logCounts?.[slot] ?? 0;
        if (logCount === Number.NEGATIVE_INFINITY) continue;
        stored.push({ position, rotation: rotations[page]!, key, value, slot, logCount, mass });
      }
    }
  }
  return stored;
}

/** One query head of one token over the tokens that it sees. Returns their scores. */
function attend(run: Run, op: OpOf<"attention">, t: number, h: number, seen: readonly Stored[]): number[] {
  const { headWidth: width } = run.tape.kv[op.layer]!;
  const at = (t * op.numHeads + h) * width;
  const query = run.buffers[op.q.id]!.subarray(at, at + width);
  const rotated = new Map<number, Float64Array>();
  const scores = seen.map(({ key, rotation, logCount }) => {
    const q = rotated.get(rotation) ?? moveQuery(run, query, op.rope, rotation);
    rotated.set(rotation, q);
    let sum = 0;
    for (let i = 0; i < width; i++) sum += q[i]! * key[i]!;
    const score = op.scale * sum;
    return logCount + (op.softcap > 0 ? op.softcap * Math.tanh(score / op.softcap) : score);
  });
  const probabilities = softmax(scores);
  const result = new Float64Array(width);
  seen.forEach(({ value }, s) => {
    for (let i = 0; i < width; i++) result[i] = result[i]! + probabilities[s]! * value[i]!;
  });
  run.buffers[op.out.id]!.set(result, at);
  return scores;
}

function softmax(scores: readonly number[]): number[] {
  const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const exponentials = scores.map((score) => Math.exp(score - max));
  const total = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((exponential) => exponential / total);
}

function giveMass(seen: readonly Stored[], scores: readonly number[]): void {
  if (seen.every(({ mass }) => mass === null)) return;
  const probabilities = softmax(scores);
  seen.forEach(({ slot, mass }, s) => {
    if (mass) mass[slot] = mass[slot]! + probabilities[s]!;
  });
}

const GUMBEL = gumbelQuantiles();

/** Scores as the tempered softmax has them. */
function temper(
  scores: readonly number[],
  seen: readonly Stored[],
  query: { readonly lane: number; readonly head: number; readonly position: number },
  { temperature, noise, seed }: Tempered,
): number[] {
  return scores.map((score, s) => {
    const quantile = gumbelIndex(seed, query.lane, query.head, query.position, seen[s]!.position);
    return (score + noise * GUMBEL[quantile]!) / temperature;
  });
}

/** The query as a moved segment's keys must meet it; unmoved for rotation -1 and for attention without rope. */
function moveQuery(run: Run, query: Float32Array, rope: RopeRef | null, rotation: number): Float64Array {
  const moved = Float64Array.from(query);
  if (rope && rotation >= 0) rotate(moved, 0, rope, run.ropes[rope.id]!, run.step.tokens.length + rotation);
  return moved;
}

/** Bytes of one lane's page. Throws INVALID_ARGUMENT for a page number outside the arena. */
function pageOf(run: Run, view: KvView, page: number, lane: number): Uint8Array {
  const { arena } = run.step;
  const { pageBytes } = run.kv;
  const id = view.region.int32(view.pageIdsAt, view.numPages * view.lanes)[page * view.lanes + lane]!;
  if (id < 0 || (id + 1) * pageBytes > arena.byteLength) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Page ${page} of lane ${lane} is number ${id}; the arena has ${Math.floor(arena.byteLength / pageBytes)}.`,
      { page, lane, id },
    );
  }
  return arena.bytes(id * pageBytes, pageBytes);
}
