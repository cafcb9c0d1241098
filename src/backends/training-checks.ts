/** The checks that training arithmetics make before they compute. All throw INVALID_ARGUMENT. */
import { MillraceError } from "../errors.js";
import type { AttentionShape, Grouping, Matrix } from "./training.js";

/** Whole numbers that f32 counts to without leaving one out. */
const MAX_ROUTES = 2 ** 24;

export function check(condition: boolean, got: string, expected: string): asserts condition {
  if (condition) return;
  throw new MillraceError("INVALID_ARGUMENT", `Got ${got}; expected ${expected}.`, { got, expected });
}

/** That a matrix is [rows, columns]. */
export function checkShape(name: string, matrix: Matrix, rows: number, columns: number): void {
  if (matrix.rows === rows && matrix.columns === columns) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${name} is [${matrix.rows}, ${matrix.columns}]; expected [${rows}, ${columns}].`,
    { name, rows: matrix.rows, columns: matrix.columns },
  );
}

export function checkCount(name: string, value: number): void {
  check(Number.isSafeInteger(value) && value >= 0, `a ${name} of ${value}`, "a whole number from 0");
}

/** That `length` numbers from `at` on, which are to be read or written, are some of `total`. */
export function checkRange(verb: "read" | "written", at: number, length: number, total: number): void {
  check(
    at >= 0 && length >= 0 && at + length <= total,
    `numbers ${at} to ${at + length} to be ${verb}`,
    `a range within ${total}`,
  );
}

/** That rows are whole runs of `width` elements. */
export function checkRuns(x: Matrix, width: number): void {
  check(width > 0 && x.columns % width === 0, `rows of ${x.columns}`, `a multiple of ${width}`);
}

export function checkAttention(
  shape: AttentionShape,
  q: Matrix,
  k: Matrix,
  v: Matrix,
  out: Matrix,
  logSum: Matrix,
): void {
  const { sequences, firstQuery, numHeads, numKvHeads, headWidth, window } = shape;
  checkShape("q", q, q.rows, numHeads * headWidth);
  checkShape("k", k, k.rows, numKvHeads * headWidth);
  checkShape("v", v, k.rows, numKvHeads * headWidth);
  checkShape("out", out, q.rows, numHeads * headWidth);
  checkShape("logSum", logSum, q.rows, numHeads);
  check(window === null || window >= 1, `a window of ${window}`, "at least 1, or null");
  const [n, m] = [q.rows / sequences, k.rows / sequences];
  check(
    Number.isInteger(n) &&
      Number.isInteger(m) &&
      firstQuery >= 0 &&
      firstQuery + n <= m &&
      numHeads % numKvHeads === 0,
    `${q.rows} queries from position ${firstQuery} over ${k.rows} keys in ${sequences} sequences, ` +
      `${numHeads} heads over ${numKvHeads}`,
    "whole sequences, a key for every query and a multiple of heads",
  );
}

/** Columns of each gate of what is to be blended. */
export function gateWidth(x: Matrix, y: Matrix, gates: Matrix): number {
  checkShape("y", y, x.rows, x.columns);
  checkShape("gates", gates, 1, gates.columns);
  check(x.columns % gates.columns === 0, `${gates.columns} gates`, `a divisor of ${x.columns} columns`);
  return x.columns / gates.columns;
}

/** That the weights of a choice of experts fit its logits, and so does its grouping where there is one. */
export function checkRoute(logits: Matrix, weights: Matrix, grouping?: Grouping): void {
  const { rows, columns } = weights;
  checkShape("weights", weights, logits.rows, columns);
  check(
    columns >= 1 && columns <= logits.columns && rows * columns <= MAX_ROUTES,
    `${columns} of ${logits.columns} experts for ${rows} rows`,
    `1 to all experts, and at most ${MAX_ROUTES} visits`,
  );
  if (!grouping) return;
  checkShape("places", grouping.places, rows, columns);
  checkShape("starts", grouping.starts, 1, logits.columns + 1);
}

export function checkSpread(x: Matrix, places: Matrix, out: Matrix): void {
  checkShape("places", places, x.rows, places.columns);
  checkShape("out", out, x.rows * places.columns, x.columns);
}

export function checkCombine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void {
  checkShape("x", x, out.rows * places.columns, out.columns);
  checkShape("places", places, out.rows, places.columns);
  if (weights) checkShape("weights", weights, out.rows, places.columns);
}

export function checkCombineBackward(
  x: Matrix,
  weights: Matrix,
  places: Matrix,
  dOut: Matrix,
  dX: Matrix | null,
  dWeights: Matrix | null,
): void {
  checkCombine(x, weights, places, dOut);
  if (dX) checkShape("dX", dX, x.rows, x.columns);
  if (dWeights) checkShape("dWeights", dWeights, weights.rows, weights.columns);
}

/** That the operands of `multiplyGroups` fit. */
export function checkGroups(
  a: Matrix,
  b: Matrix,
  starts: Matrix,
  out: Matrix,
  { transposeA = false, transposeB = false }: { transposeA?: boolean; transposeB?: boolean },
): void {
  const groups = starts.columns - 1;
  checkShape("starts", starts, 1, starts.columns);
  if (transposeA) {
    check(!transposeB, "both operands transposed", "one of them");
    checkShape("B", b, a.rows, out.columns);
    checkShape("out", out, groups * a.columns, b.columns);
  } else {
    checkShape("B", b, groups * (transposeB ? out.columns : a.columns), transposeB ? a.columns : out.columns);
    checkShape("out", out, a.rows, out.columns);
  }
}
