/**
 * The definition of what mixtures of experts need in training: a choice of experts, the way of rows to their groups and
 * back, and products by group. Operations as documented in backends/training.ts.
 */
import type { Grouping, Matrix, TrainingArithmetic } from "../training.js";
import {
  checkCombine,
  checkCombineBackward,
  checkGroups,
  checkRoute,
  checkShape,
  checkSpread,
} from "../training-checks.js";
import { dataOf, type Numbers } from "./training-memory.js";

/** What one row of logits makes of a choice. */
interface Choice {
  /** Largest logit first, ties to the lower expert. */
  readonly experts: readonly number[];
  /** Softmax over all experts, or over the chosen ones: 0 for the others then. */
  readonly probabilities: readonly number[];
}

function choose(logits: Numbers, perRow: number, normalize: boolean): Choice {
  const experts = Array.from(logits, (_, e) => e);
  experts.sort((a, b) => logits[b]! - logits[a]! || a - b);
  experts.length = perRow;
  const max = logits[experts[0]!]!;
  const exponentials = Array.from(logits, (x, e) =>
    normalize && !experts.includes(e) ? 0 : Math.exp(x - max),
  );
  const total = exponentials.reduce((sum, x) => sum + x, 0);
  return { experts, probabilities: exponentials.map((x) => x / total) };
}

const rowOf = (matrix: Matrix, row: number): Numbers => {
  const start = matrix.at + row * matrix.stride;
  return dataOf(matrix).subarray(start, start + matrix.columns);
};

export function route(
  logits: Matrix,
  normalize: boolean,
  weights: Matrix,
  { places, starts }: Grouping,
): void {
  checkRoute(logits, weights, { places, starts });
  const groups: { t: number; j: number }[][] = Array.from({ length: logits.columns }, () => []);
  for (let t = 0; t < logits.rows; t++) {
    const { experts, probabilities } = choose(rowOf(logits, t), weights.columns, normalize);
    rowOf(weights, t).set(experts.map((e) => probabilities[e]!));
    for (const [j, e] of experts.entries()) groups[e]!.push({ t, j });
  }
  let place = 0;
  for (const [e, group] of groups.entries()) {
    rowOf(starts, 0)[e] = place;
    for (const { t, j } of group) rowOf(places, t)[j] = place++;
  }
  rowOf(starts, 0)[groups.length] = place;
}

/** Of p = softmax with gradient g: p (g - sum of p g). */
export function routeBackward(logits: Matrix, normalize: boolean, dWeights: Matrix, dLogits: Matrix): void {
  checkRoute(logits, dWeights);
  checkShape("dLogits", dLogits, logits.rows, logits.columns);
  for (let t = 0; t < logits.rows; t++) {
    const { experts, probabilities } = choose(rowOf(logits, t), dWeights.columns, normalize);
    const given = new Float64Array(logits.columns);
    for (const [j, e] of experts.entries()) given[e] = rowOf(dWeights, t)[j]!;
    const mean = probabilities.reduce((sum, p, e) => sum + p * given[e]!, 0);
    const to = rowOf(dLogits, t);
    for (const [e, p] of probabilities.entries()) to[e] = to[e]! + p * (given[e]! - mean);
  }
}

export function spread(x: Matrix, places: Matrix, out: Matrix): void {
  checkSpread(x, places, out);
  for (let t = 0; t < x.rows; t++) {
    for (const place of rowOf(places, t)) rowOf(out, place).set(rowOf(x, t));
  }
}

export function combine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void {
  checkCombine(x, weights, places, out);
  for (let t = 0; t < out.rows; t++) {
    const factors = weights && rowOf(weights, t);
    const from = Array.from(rowOf(places, t), (place) => rowOf(x, place));
    const to = rowOf(out, t);
    for (let c = 0; c < out.columns; c++) {
      to[c] = from.reduce((sum, row, j) => sum + (factors ? factors[j]! : 1) * row[c]!, to[c]!);
    }
  }
}

export function combineBackward(
  x: Matrix,
  weights: Matrix,
  places: Matrix,
  dOut: Matrix,
  dX: Matrix | null,
  dWeights: Matrix | null,
): void {
  checkCombineBackward(x, weights, places, dOut, dX, dWeights);
  for (let t = 0; t < dOut.rows; t++) {
    const given = rowOf(dOut, t);
    for (const [j, place] of rowOf(places, t).entries()) {
      const weight = rowOf(weights, t)[j]!;
      const to = dX && rowOf(dX, place);
      if (to) for (const [c, g] of given.entries()) to[c] = to[c]! + weight * g;
      if (!dWeights) continue;
      const from = rowOf(x, place);
      let product = 0;
      for (const [c, g] of given.entries()) product += g * from[c]!;
      rowOf(dWeights, t)[j] = rowOf(dWeights, t)[j]! + product;
    }
  }
}

/** One dense product a group. */
export function multiplyGroups(
  arithmetic: Pick<TrainingArithmetic, "multiply">,
  a: Matrix,
  b: Matrix,
  starts: Matrix,
  out: Matrix,
  options: { transposeA?: boolean; transposeB?: boolean; accumulate?: boolean },
): void {
  checkGroups(a, b, starts, out, options);
  const groups = starts.columns - 1;
  const bounds = rowOf(starts, 0);
  for (let g = 0; g < groups; g++) {
    const group = (x: Matrix): Matrix => slice(x, bounds[g]!, bounds[g + 1]! - bounds[g]!);
    const own = (x: Matrix): Matrix => slice(x, (g * x.rows) / groups, x.rows / groups);
    if (options.transposeA) arithmetic.multiply(group(a), group(b), own(out), options);
    else arithmetic.multiply(group(a), own(b), group(out), options);
  }
}

const slice = ({ values, at, columns, stride }: Matrix, first: number, rows: number): Matrix => ({
  values,
  at: at + first * stride,
  rows,
  columns,
  stride,
});
