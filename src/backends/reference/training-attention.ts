/** Causal attention over whole sequences, forward and backward, as training.ts of the room above states it. */
import type { AttentionShape, Matrix } from "../training.js";
import { checkAttention, checkShape } from "../training-checks.js";
import { dataOf, type Numbers } from "./training-memory.js";

/** One query head of one position: where its numbers lie, and which keys it sees. */
interface Query {
  readonly row: number;
  readonly head: number;
  /** Offset of the query's head in a row of q, out and their gradients. */
  readonly column: number;
  /** Offset of its kv head in a row of k, v and their gradients. */
  readonly kvColumn: number;
  /** Rows of k and v that it sees, ascending. */
  readonly keys: readonly number[];
}

function* queries(q: Matrix, k: Matrix, shape: AttentionShape): Generator<Query> {
  const { sequences, firstQuery, numHeads, numKvHeads, headWidth, window, sinks } = shape;
  const n = q.rows / sequences;
  const m = k.rows / sequences;
  for (let sequence = 0; sequence < sequences; sequence++) {
    for (let i = 0; i < n; i++) {
      const position = firstQuery + i;
      const keys: number[] = [];
      for (let s = 0; s <= position; s++) {
        if (window === null || position - s < window || s < sinks) keys.push(sequence * m + s);
      }
      for (let head = 0; head < numHeads; head++) {
        const kvHead = Math.floor((head * numKvHeads) / numHeads);
        yield {
          row: sequence * n + i,
          head,
          column: head * headWidth,
          kvColumn: kvHead * headWidth,
          keys,
        };
      }
    }
  }
}

/** cap(scale * q . k), and its derivative by q . k. */
function scoreOf(product: number, { scale, softcap }: AttentionShape): { score: number; slope: number } {
  if (softcap === 0) return { score: scale * product, slope: scale };
  const t = Math.tanh((scale * product) / softcap);
  return { score: softcap * t, slope: scale * (1 - t * t) };
}

function dot(a: Numbers, aAt: number, b: Numbers, bAt: number, width: number): number {
  let sum = 0;
  for (let i = 0; i < width; i++) sum += a[aAt + i]! * b[bAt + i]!;
  return sum;
}

/** Adds factor * from to `to`. */
function addTo(
  to: Numbers,
  toAt: number,
  from: Numbers,
  fromAt: number,
  width: number,
  factor: number,
): void {
  for (let i = 0; i < width; i++) to[toAt + i] = to[toAt + i]! + factor * from[fromAt + i]!;
}

export function attention(
  q: Matrix,
  k: Matrix,
  v: Matrix,
  shape: AttentionShape,
  out: Matrix,
  logSum: Matrix,
): void {
  checkAttention(shape, q, k, v, out, logSum);
  const { headWidth: width } = shape;
  const [qs, ks, vs, outs, sums] = [dataOf(q), dataOf(k), dataOf(v), dataOf(out), dataOf(logSum)];
  const result = new Float64Array(width);
  for (const { row, head, column, kvColumn, keys } of queries(q, k, shape)) {
    const qAt = q.at + row * q.stride + column;
    const scores = keys.map(
      (s) => scoreOf(dot(qs, qAt, ks, k.at + s * k.stride + kvColumn, width), shape).score,
    );
    const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const total = scores.reduce((sum, score) => sum + Math.exp(score - max), 0);
    const log = max + Math.log(total);
    result.fill(0);
    keys.forEach((s, j) => {
      addTo(result, 0, vs, v.at + s * v.stride + kvColumn, width, Math.exp(scores[j]! - log));
    });
    outs.set(result, out.at + row * out.stride + column);
    sums[logSum.at + row * logSum.stride + head] = log;
  }
}

/**
 * With p the probabilities, D = dOut . out and s the scores: dV += p dOut, ds = p (dOut . v - D), and dQ, dK follow
 * through the slope of the score (2205.14135, section 3.1 and appendix B).
 */
export function attentionBackward(
  forward: { q: Matrix; k: Matrix; v: Matrix; out: Matrix; logSum: Matrix },
  shape: AttentionShape,
  dOut: Matrix,
  dQ: Matrix,
  dK: Matrix,
  dV: Matrix,
): void {
  const { q, k, v, out, logSum } = forward;
  checkAttention(shape, q, k, v, out, logSum);
  checkAttention(shape, dQ, dK, dV, dOut, logSum);
  checkShape("dQ", dQ, q.rows, q.columns);
  checkShape("dK", dK, k.rows, k.columns);
  const { headWidth: width } = shape;
  const [qs, ks, vs, outs, sums] = [dataOf(q), dataOf(k), dataOf(v), dataOf(out), dataOf(logSum)];
  const [dOuts, dQs, dKs, dVs] = [dataOf(dOut), dataOf(dQ), dataOf(dK), dataOf(dV)];
  for (const { row, head, column, kvColumn, keys } of queries(q, k, shape)) {
    const qAt = q.at + row * q.stride + column;
    const dOutAt = dOut.at + row * dOut.stride + column;
    const log = sums[logSum.at + row * logSum.stride + head]!;
    const mean = dot(dOuts, dOutAt, outs, out.at + row * out.stride + column, width);
    for (const s of keys) {
      const kAt = k.at + s * k.stride + kvColumn;
      const { score, slope } = scoreOf(dot(qs, qAt, ks, kAt, width), shape);
      const probability = Math.exp(score - log);
      const dProbability = dot(dOuts, dOutAt, vs, v.at + s * v.stride + kvColumn, width);
      const dProduct = probability * (dProbability - mean) * slope;
      addTo(dVs, dV.at + s * dV.stride + kvColumn, dOuts, dOutAt, width, probability);
      addTo(dQs, dQ.at + row * dQ.stride + column, ks, kAt, width, dProduct);
      addTo(dKs, dK.at + s * dK.stride + kvColumn, qs, qAt, width, dProduct);
    }
  }
}
