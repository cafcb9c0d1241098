/** What attention finds in pages: stored tokens of a lane, and what queries score them. */
import { codecs } from "../../cache/codecs/index.js";
import { MillraceError } from "../../errors.js";
import type { Op, RopeRef } from "../../tape/tape.js";
import type { KvPages, KvView, Span } from "../contract.js";
import { rotate } from "./rotate.js";
import type { Run } from "./state.js";

export type OpOf<Name extends Op["op"]> = Extract<Op, { op: Name }>;

/** A stored token of one lane, decoded. */
export interface Stored {
  readonly position: number;
  readonly rotation: number;
  readonly key: Float32Array;
  readonly value: Float32Array;
  readonly slot: number;
  readonly logCount: number;
  /** Where the lane's slots add up the probability that they received, if the view asks. */
  readonly mass: Float32Array | null;
  /** Bit t: token t of the span attends to it. */
  readonly shown: number;
}

export const isSeen = (key: number, query: number, window: number | null): boolean =>
  key >= 0 && key <= query && (window === null || query - key < window);

/** All filled slots of one lane, over the chain of views, or of the first alone. */
export function gather(pages: KvPages, span: Span, group: number, lane: number, chained = true): Stored[] {
  const width = pages.kv.groups[group]!.headWidth;
  const stored: Stored[] = [];
  const shown = shownOf(span.views[group]!);
  for (let view: KvView | null = span.views[group]!; view; view = chained ? view.next : null) {
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
      const bytes = pageOf(pages, view, page, lane);
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
        const word = view === span.views[group] && shown ? shown[slot]! : -1;
        stored.push({ position, rotation: rotations[page]!, key, value, slot, logCount, mass, shown: word });
      }
    }
  }
  return stored;
}

/** By slot of a first view, whose queries choose: see KvChoice. */
export const shownOf = ({ choice, numPages, pageTokens }: KvView): Int32Array | null =>
  choice?.shown.int32(0, numPages * pageTokens) ?? null;

/** What one query head of one token scores the tokens that it sees, before the softmax. */
export function scoresOf(
  run: Run,
  op: OpOf<"attention">,
  t: number,
  h: number,
  seen: readonly Stored[],
): number[] {
  const { headWidth: width } = run.tape.kv[op.layer]!;
  const at = (t * op.numHeads + h) * width;
  const query = run.buffers[op.q.id]!.subarray(at, at + width);
  const rotated = new Map<number, Float64Array>();
  return seen.map(({ key, rotation, logCount }) => {
    const q = rotated.get(rotation) ?? moveQuery(run, query, op.rope, rotation);
    rotated.set(rotation, q);
    let sum = 0;
    for (let i = 0; i < width; i++) sum += q[i]! * key[i]!;
    const score = op.scale * sum;
    return logCount + (op.softcap > 0 ? op.softcap * Math.tanh(score / op.softcap) : score);
  });
}

export function softmax(scores: readonly number[]): number[] {
  const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const exponentials = scores.map((score) => Math.exp(score - max));
  const total = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((exponential) => exponential / total);
}

/** The query as a moved segment's keys must meet it; unmoved for rotation -1 and for attention without rope. */
function moveQuery(run: Run, query: Float32Array, rope: RopeRef | null, rotation: number): Float64Array {
  const moved = Float64Array.from(query);
  if (rope && rotation >= 0) rotate(moved, 0, rope, run.ropes[rope.id]!, run.step.tokens.length + rotation);
  return moved;
}

/** Bytes of one lane's page. Throws INVALID_ARGUMENT for a page number outside the arena. */
export function pageOf({ kv, arena }: KvPages, view: KvView, page: number, lane: number): Uint8Array {
  const { pageBytes } = kv;
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
