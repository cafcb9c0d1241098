import { codecs } from "../../cache/codecs/index.js";
import type { Span, Tempered } from "../contract.js";
import { gumbelIndex, gumbelQuantiles } from "../gumbel.js";
import { choose } from "./choice.js";
import { findLane, pagesOf, type Run } from "./state.js";
import { gather, isSeen, type OpOf, pageOf, type Stored, scoresOf, softmax } from "./stored.js";

/** Encodes each token's key and value, lane by lane, into its slot of its span's first view. */
export function append(run: Run, { k, v, layer }: OpOf<"append">): void {
  const { numKvHeads, headWidth: width } = run.tape.kv[layer]!;
  const keys = run.buffers[k.id]!;
  const values = run.buffers[v.id]!;
  for (const span of run.step.spans) {
    const pages = pagesOf(run, span);
    for (let head = 0; head < numKvHeads; head++) {
      const { group, lane } = findLane(pages.kv, layer, head);
      const view = span.views[group]!;
      for (let t = span.start; t < span.start + span.count; t++) {
        const slot = pages.slots[group]![t - span.start]!;
        const page = pageOf(pages, view, Math.floor(slot / view.pageTokens), lane);
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

/** A query that sees no stored token at all gives zeros. */
export function attention(run: Run, op: OpOf<"attention">): void {
  const { numKvHeads } = run.tape.kv[op.layer]!;
  for (const span of run.step.spans) {
    const pages = pagesOf(run, span);
    choose(run, op, span);
    for (let head = 0; head < numKvHeads; head++) {
      const { group, lane } = findLane(pages.kv, op.layer, head);
      const stored = gather(pages, span, group, lane);
      const giving = span.views[group]!.mass;
      measureQueries(run, op, span, { head, group, lane });
      for (let t = span.start; t < span.start + span.count; t++) {
        const shown = stored.filter((token) => ((token.shown >> (t - span.start)) & 1) === 1);
        const seen = shown.filter(({ position }) => isSeen(position, run.step.positions[t]!, op.window));
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

/** One query head of one token over the tokens that it sees. Returns their scores. */
function attend(run: Run, op: OpOf<"attention">, t: number, h: number, seen: readonly Stored[]): number[] {
  const { headWidth: width } = run.tape.kv[op.layer]!;
  const scores = scoresOf(run, op, t, h, seen);
  const probabilities = softmax(scores);
  const result = new Float64Array(width);
  seen.forEach(({ value }, s) => {
    for (let i = 0; i < width; i++) result[i] = result[i]! + probabilities[s]! * value[i]!;
  });
  run.buffers[op.out.id]!.set(result, (t * op.numHeads + h) * width);
  return scores;
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
