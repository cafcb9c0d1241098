/**
 * The definition of training arithmetic, in plain loops: sums in double precision, stored in double precision ("f64",
 * for checking gradients) or rounded to f32. One thread; every call computes at once. Operations as documented in
 * backends/training.ts, in the same order.
 *
 * Every call throws INVALID_ARGUMENT for matrices whose shapes do not agree.
 */
import { MillraceError } from "../../errors.js";
import { blockFormat, rowBytes } from "../../formats/blocks/index.js";
import type { TensorType } from "../../formats/checkpoint.js";
import type { Activation } from "../../tape/tape.js";
import { normalNoise } from "../normal-noise.js";
import type {
  Angles,
  AttentionShape,
  Grouping,
  Ids,
  Matrix,
  StoredRows,
  TrainingArithmetic,
} from "../training.js";
import { check, checkCount, checkRuns, checkShape, gateWidth } from "../training-checks.js";
import { ACTIVATIONS } from "./activations.js";
import { attention, attentionBackward } from "./training-attention.js";
import {
  combine,
  combineBackward,
  multiplyGroups,
  route,
  routeBackward,
  spread,
} from "./training-experts.js";
import {
  dataOf,
  type Numbers,
  ReferenceIds,
  ReferenceRows,
  ReferenceValues,
  Tally,
} from "./training-memory.js";

export function createReferenceTraining(options: { precision?: "f32" | "f64" } = {}): TrainingArithmetic {
  return new ReferenceTraining(options.precision ?? "f64");
}

class ReferenceTraining implements TrainingArithmetic {
  readonly precision: "f32" | "f64";
  readonly numThreads = 1;
  readonly #tally = new Tally();

  constructor(precision: "f32" | "f64") {
    this.precision = precision;
  }

  get bytes(): { readonly current: number; readonly peak: number } {
    const { current, peak } = this.#tally;
    return { current, peak };
  }

  resetPeak(): void {
    this.#tally.peak = this.#tally.current;
  }

  allocate(length: number): ReferenceValues {
    return claim(length, () => {
      const data = this.precision === "f64" ? new Float64Array(length) : new Float32Array(length);
      return new ReferenceValues(this.#tally, data);
    });
  }

  allocateIds(length: number): ReferenceIds {
    return claim(length, () => new ReferenceIds(this.#tally, length));
  }

  store(type: TensorType, rows: number, columns: number, bytes: Uint8Array): ReferenceRows {
    const expected = rows * rowBytes(type, columns);
    check(bytes.byteLength === expected, `${bytes.byteLength} bytes`, `${expected} for ${rows} rows`);
    return claim(bytes.byteLength, () => new ReferenceRows(this.#tally, type, rows, columns, bytes));
  }

  async sync(): Promise<void> {}

  fill(out: Matrix, value: number): void {
    update(out, () => value);
  }

  copy(x: Matrix, out: Matrix): void {
    checkShape("out", out, x.rows, x.columns);
    const from = dataOf(x);
    update(out, (_, r, c) => from[x.at + r * x.stride + c]!);
  }

  addScaled(x: Matrix, out: Matrix, alpha: number, beta: number): void {
    checkShape("out", out, x.rows, x.columns);
    const from = dataOf(x);
    update(out, (old, r, c) => beta * old + alpha * from[x.at + r * x.stride + c]!);
  }

  addRow(bias: Matrix, out: Matrix): void {
    checkShape("bias", bias, 1, out.columns);
    const from = dataOf(bias);
    update(out, (old, _, c) => old + from[bias.at + c]!);
  }

  sumRows(x: Matrix, out: Matrix): void {
    checkShape("out", out, 1, x.columns);
    const from = dataOf(x);
    update(out, (old, _, c) => {
      let sum = old;
      for (let r = 0; r < x.rows; r++) sum += from[x.at + r * x.stride + c]!;
      return sum;
    });
  }

  multiply(
    a: Matrix,
    b: Matrix,
    out: Matrix,
    options: { transposeA?: boolean; transposeB?: boolean; alpha?: number; accumulate?: boolean } = {},
  ): void {
    const { transposeA = false, transposeB = false, alpha = 1, accumulate = false } = options;
    const inner = transposeA ? a.rows : a.columns;
    checkShape("B", b, transposeB ? b.rows : inner, transposeB ? inner : b.columns);
    checkShape("out", out, transposeA ? a.columns : a.rows, transposeB ? b.rows : b.columns);
    const [as, bs] = [dataOf(a), dataOf(b)];
    const [aRow, aStep] = transposeA ? [1, a.stride] : [a.stride, 1];
    const [bStep, bColumn] = transposeB ? [1, b.stride] : [b.stride, 1];
    update(out, (old, r, c) => {
      const [aAt, bAt] = [a.at + r * aRow, b.at + c * bColumn];
      let sum = 0;
      for (let i = 0; i < inner; i++) sum += as[aAt + i * aStep]! * bs[bAt + i * bStep]!;
      return alpha * sum + (accumulate ? old : 0);
    });
  }

  decode(stored: StoredRows, firstRow: number, out: Matrix): void {
    if (!(stored instanceof ReferenceRows)) {
      throw new MillraceError("INVALID_ARGUMENT", "The stored rows lie in memory of another backend.");
    }
    const { type, columns, rows } = stored;
    checkShape("out", out, out.rows, columns);
    check(
      firstRow >= 0 && firstRow + out.rows <= rows,
      `rows ${firstRow} to ${firstRow + out.rows}`,
      `rows of ${rows}`,
    );
    const bytes = rowBytes(type, columns);
    const decoded = new Float32Array(out.rows * columns);
    blockFormat(type).decode(stored.bytes.subarray(firstRow * bytes, (firstRow + out.rows) * bytes), decoded);
    update(out, (_, r, c) => decoded[r * columns + c]!);
  }

  embed(ids: Ids, weight: Matrix, scale: number, out: Matrix): void {
    const rows = idsOf(ids, out.rows, weight.rows);
    checkShape("out", out, ids.length, weight.columns);
    const from = dataOf(weight);
    update(out, (_, r, c) => scale * from[weight.at + rows[r]! * weight.stride + c]!);
  }

  embedBackward(ids: Ids, dOut: Matrix, scale: number, dWeight: Matrix): void {
    const rows = idsOf(ids, dOut.rows, dWeight.rows);
    checkShape("dWeight", dWeight, dWeight.rows, dOut.columns);
    const [from, to] = [dataOf(dOut), dataOf(dWeight)];
    for (let r = 0; r < dOut.rows; r++) {
      for (let c = 0; c < dOut.columns; c++) {
        const at = dWeight.at + rows[r]! * dWeight.stride + c;
        to[at] = to[at]! + scale * from[dOut.at + r * dOut.stride + c]!;
      }
    }
  }

  rmsNorm(x: Matrix, weight: Matrix | null, width: number, epsilon: number, out: Matrix): void {
    checkShape("out", out, x.rows, x.columns);
    const [from, to] = [dataOf(x), dataOf(out)];
    const factors = factorsOf(weight, width);
    for (const { r, c } of runs(x, width)) {
      const [at, toAt] = [x.at + r * x.stride + c, out.at + r * out.stride + c];
      const inverse = inverseRoot(from, at, width, epsilon);
      for (let i = 0; i < width; i++) to[toAt + i] = from[at + i]! * inverse * factors(i);
    }
  }

  /** With y = x / rms(x): dX = (g - y * mean(g y)) / rms(x), g = dOut * weight; dWeight = sum of dOut * y. */
  rmsNormBackward(
    x: Matrix,
    weight: Matrix | null,
    width: number,
    epsilon: number,
    dOut: Matrix,
    dX: Matrix,
    dWeight: Matrix | null,
  ): void {
    checkShape("dOut", dOut, x.rows, x.columns);
    checkShape("dX", dX, x.rows, x.columns);
    if (dWeight) checkShape("dWeight", dWeight, 1, width);
    const [from, dFrom, to] = [dataOf(x), dataOf(dOut), dataOf(dX)];
    const factors = factorsOf(weight, width);
    const dFactors = dWeight && dataOf(dWeight);
    for (const { r, c } of runs(x, width)) {
      const at = x.at + r * x.stride + c;
      const dAt = dOut.at + r * dOut.stride + c;
      const toAt = dX.at + r * dX.stride + c;
      const inverse = inverseRoot(from, at, width, epsilon);
      let mean = 0;
      for (let i = 0; i < width; i++) mean += dFrom[dAt + i]! * factors(i) * from[at + i]! * inverse;
      mean /= width;
      for (let i = 0; i < width; i++) {
        const y = from[at + i]! * inverse;
        to[toAt + i] = to[toAt + i]! + (dFrom[dAt + i]! * factors(i) - y * mean) * inverse;
        if (dFactors) dFactors[dWeight.at + i] = dFactors[dWeight.at + i]! + dFrom[dAt + i]! * y;
      }
    }
  }

  rope(
    x: Matrix,
    headWidth: number,
    angles: Angles,
    sequences: number,
    firstPosition: number,
    inverse: boolean,
  ): void {
    const { pairs, style } = angles;
    const table = (angles.values as ReferenceValues).data;
    const data = dataOf(x);
    const perSequence = x.rows / sequences;
    const last = (firstPosition + perSequence) * 2 * pairs;
    check(
      2 * pairs <= headWidth,
      `${pairs} rotated pairs`,
      `at most half of a head of ${headWidth} elements`,
    );
    check(
      Number.isInteger(perSequence) && last <= table.length,
      `${x.rows} rows of ${sequences} sequences from position ${firstPosition}`,
      "whole sequences within the table of angles",
    );
    for (const { r, c } of runs(x, headWidth)) {
      const row = (firstPosition + (r % perSequence)) * 2 * pairs;
      for (let i = 0; i < pairs; i++) {
        const first = x.at + r * x.stride + c + (style === "interleaved" ? 2 * i : i);
        const second = first + (style === "interleaved" ? 1 : pairs);
        const cos = table[row + i]!;
        const sin = inverse ? -table[row + pairs + i]! : table[row + pairs + i]!;
        const [a, b] = [data[first]!, data[second]!];
        data[first] = a * cos - b * sin;
        data[second] = a * sin + b * cos;
      }
    }
  }

  attention(q: Matrix, k: Matrix, v: Matrix, shape: AttentionShape, out: Matrix, logSum: Matrix): void {
    attention(q, k, v, shape, out, logSum);
  }

  attentionBackward(
    forward: { q: Matrix; k: Matrix; v: Matrix; out: Matrix; logSum: Matrix },
    shape: AttentionShape,
    dOut: Matrix,
    dQ: Matrix,
    dK: Matrix,
    dV: Matrix,
  ): void {
    attentionBackward(forward, shape, dOut, dQ, dK, dV);
  }

  blend(x: Matrix, y: Matrix, gates: Matrix, out: Matrix): void {
    const width = gateWidth(x, y, gates);
    checkShape("out", out, x.rows, x.columns);
    const [xs, ys, factors] = [dataOf(x), dataOf(y), dataOf(gates)];
    update(out, (_, r, c) => {
      const gate = factors[gates.at + Math.floor(c / width)]!;
      return gate * xs[x.at + r * x.stride + c]! + (1 - gate) * ys[y.at + r * y.stride + c]!;
    });
  }

  blendBackward(
    x: Matrix,
    y: Matrix,
    gates: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dY: Matrix | null,
    dGates: Matrix | null,
  ): void {
    const width = gateWidth(x, y, gates);
    checkShape("dOut", dOut, x.rows, x.columns);
    const [xs, ys, factors, dOuts] = [dataOf(x), dataOf(y), dataOf(gates), dataOf(dOut)];
    const gate = (c: number) => factors[gates.at + Math.floor(c / width)]!;
    const d = (r: number, c: number) => dOuts[dOut.at + r * dOut.stride + c]!;
    if (dX) {
      checkShape("dX", dX, x.rows, x.columns);
      update(dX, (old, r, c) => old + gate(c) * d(r, c));
    }
    if (dY) {
      checkShape("dY", dY, x.rows, x.columns);
      update(dY, (old, r, c) => old + (1 - gate(c)) * d(r, c));
    }
    if (!dGates) return;
    checkShape("dGates", dGates, 1, gates.columns);
    update(dGates, (old, _, g) => {
      let sum = old;
      for (let r = 0; r < x.rows; r++) {
        for (let c = g * width; c < (g + 1) * width; c++) {
          sum += d(r, c) * (xs[x.at + r * x.stride + c]! - ys[y.at + r * y.stride + c]!);
        }
      }
      return sum;
    });
  }

  glu(gate: Matrix, up: Matrix, activation: Activation, out: Matrix): void {
    checkShape("up", up, gate.rows, gate.columns);
    checkShape("out", out, gate.rows, gate.columns);
    const [gates, ups] = [dataOf(gate), dataOf(up)];
    const { value } = ACTIVATIONS[activation];
    update(out, (_, r, c) => value(gates[gate.at + r * gate.stride + c]!) * ups[up.at + r * up.stride + c]!);
  }

  gluBackward(
    gate: Matrix,
    up: Matrix,
    activation: Activation,
    dOut: Matrix,
    dGate: Matrix,
    dUp: Matrix,
  ): void {
    for (const [name, matrix] of Object.entries({ up, dOut, dGate, dUp })) {
      checkShape(name, matrix, gate.rows, gate.columns);
    }
    const [gates, ups, dOuts] = [dataOf(gate), dataOf(up), dataOf(dOut)];
    const { value, derivative } = ACTIVATIONS[activation];
    const d = (r: number, c: number) => dOuts[dOut.at + r * dOut.stride + c]!;
    const g = (r: number, c: number) => gates[gate.at + r * gate.stride + c]!;
    update(dGate, (old, r, c) => old + d(r, c) * derivative(g(r, c)) * ups[up.at + r * up.stride + c]!);
    update(dUp, (old, r, c) => old + d(r, c) * value(g(r, c)));
  }

  route(logits: Matrix, normalize: boolean, weights: Matrix, grouping: Grouping): void {
    route(logits, normalize, weights, grouping);
  }

  routeBackward(logits: Matrix, normalize: boolean, dWeights: Matrix, dLogits: Matrix): void {
    routeBackward(logits, normalize, dWeights, dLogits);
  }

  spread(x: Matrix, places: Matrix, out: Matrix): void {
    spread(x, places, out);
  }

  combine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void {
    combine(x, weights, places, out);
  }

  combineBackward(
    x: Matrix,
    weights: Matrix,
    places: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dWeights: Matrix | null,
  ): void {
    combineBackward(x, weights, places, dOut, dX, dWeights);
  }

  multiplyGroups(
    a: Matrix,
    b: Matrix,
    starts: Matrix,
    out: Matrix,
    options: { transposeA?: boolean; transposeB?: boolean; accumulate?: boolean } = {},
  ): void {
    multiplyGroups(this, a, b, starts, out, options);
  }

  crossEntropy(logits: Matrix, targets: Ids, firstTarget: number, weights: Matrix, losses: Matrix): void {
    checkShape("weights", weights, logits.rows, 1);
    checkShape("losses", losses, logits.rows, 1);
    const ids = (targets as ReferenceIds).data;
    check(
      firstTarget >= 0 && firstTarget + logits.rows <= ids.length,
      `targets ${firstTarget} to ${firstTarget + logits.rows}`,
      `targets of ${ids.length}`,
    );
    const [data, factors, out] = [dataOf(logits), dataOf(weights), dataOf(losses)];
    for (let r = 0; r < logits.rows; r++) {
      const row = data.subarray(logits.at + r * logits.stride).subarray(0, logits.columns);
      const target = ids[firstTarget + r]!;
      check(target < logits.columns, `target ${target}`, `-1 or one of ${logits.columns} ids`);
      if (target < 0) {
        out[losses.at + r * losses.stride] = 0;
        row.fill(0);
        continue;
      }
      const weight = factors[weights.at + r * weights.stride]!;
      let max = Number.NEGATIVE_INFINITY;
      for (const logit of row) max = Math.max(max, logit);
      let total = 0;
      for (const logit of row) total += Math.exp(logit - max);
      const log = max + Math.log(total);
      out[losses.at + r * losses.stride] = weight * (log - row[target]!);
      for (let c = 0; c < row.length; c++) {
        row[c] = weight * (Math.exp(row[c]! - log) - (c === target ? 1 : 0));
      }
    }
  }

  adamW(
    weight: Matrix,
    gradient: Matrix,
    m: Matrix,
    v: Matrix,
    options: { rate: number; beta1: number; beta2: number; epsilon: number; decay: number; step: number },
  ): void {
    const { rate, beta1, beta2, epsilon, decay, step } = options;
    for (const [name, matrix] of Object.entries({ gradient, m, v })) {
      checkShape(name, matrix, weight.rows, weight.columns);
    }
    const gradients = dataOf(gradient);
    const [means, squares] = [dataOf(m), dataOf(v)];
    const correction1 = 1 - beta1 ** step;
    const correction2 = 1 - beta2 ** step;
    update(weight, (old, r, c) => {
      const g = gradients[gradient.at + r * gradient.stride + c]!;
      const mAt = m.at + r * m.stride + c;
      const vAt = v.at + r * v.stride + c;
      const mean = beta1 * means[mAt]! + (1 - beta1) * g;
      const square = beta2 * squares[vAt]! + (1 - beta2) * g * g;
      means[mAt] = mean;
      squares[vAt] = square;
      return old - rate * (mean / correction1 / (Math.sqrt(square / correction2) + epsilon) + decay * old);
    });
  }

  sumSquares(x: Matrix, out: Matrix): void {
    const data = dataOf(x);
    let sum = 0;
    for (const { r } of runs(x, x.columns)) sum += squares(data, x.at + r * x.stride, x.columns);
    const to = dataOf(out);
    to[out.at] = to[out.at]! + sum;
  }

  rowNorms(x: Matrix, out: Matrix): void {
    checkShape("out", out, x.rows, 1);
    const data = dataOf(x);
    update(out, (_, r) => Math.sqrt(squares(data, x.at + r * x.stride, x.columns)));
  }

  scaleRows(x: Matrix, scale: Matrix, out: Matrix): void {
    checkShape("scale", scale, x.rows, 1);
    checkShape("out", out, x.rows, x.columns);
    const [from, factors] = [dataOf(x), dataOf(scale)];
    update(out, (_, r, c) => from[x.at + r * x.stride + c]! * factors[scale.at + r * scale.stride]!);
  }

  addNormal(out: Matrix, seed: number, alpha: number, beta: number): void {
    const noise = normalNoise(seed);
    update(out, (old, r, c) => beta * old + alpha * noise(r * out.columns + c));
  }
}

/** Sets every element of a matrix from its old value, row and column. */
function update(out: Matrix, next: (old: number, row: number, column: number) => number): void {
  const data = dataOf(out);
  for (let r = 0; r < out.rows; r++) {
    for (let c = 0; c < out.columns; c++) {
      const at = out.at + r * out.stride + c;
      data[at] = next(data[at]!, r, c);
    }
  }
}

/** Where each run of `width` elements of a matrix's rows starts. */
function* runs(x: Matrix, width: number): Generator<{ r: number; c: number }> {
  checkRuns(x, width);
  for (let r = 0; r < x.rows; r++) for (let c = 0; c < x.columns; c += width) yield { r, c };
}

function squares(data: Numbers, at: number, width: number): number {
  let sum = 0;
  for (let i = at; i < at + width; i++) sum += data[i]! * data[i]!;
  return sum;
}

const inverseRoot = (data: Numbers, at: number, width: number, epsilon: number): number =>
  1 / Math.sqrt(squares(data, at, width) / width + epsilon);

function factorsOf(weight: Matrix | null, width: number): (i: number) => number {
  if (!weight) return () => 1;
  checkShape("weight", weight, 1, width);
  const data = dataOf(weight);
  return (i) => data[weight.at + i]!;
}

/** Throws INVALID_ARGUMENT, or INVALID_TOKEN for an id outside the table. */
function idsOf(ids: Ids, count: number, rows: number): Int32Array {
  const { data } = ids as ReferenceIds;
  check(data.length === count, `${data.length} ids`, `${count}`);
  const bad = data.find((id) => id < 0 || id >= rows);
  if (bad !== undefined) {
    throw new MillraceError(
      "INVALID_TOKEN",
      `Token id ${bad} is outside the ${rows} rows of the embedding.`,
      {
        token: bad,
        rows,
      },
    );
  }
  return data;
}

/** Throws OUT_OF_BUDGET where the runtime refuses the memory, INVALID_ARGUMENT for a length that is none. */
function claim<T>(length: number, make: () => T): T {
  checkCount("length", length);
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new MillraceError("OUT_OF_BUDGET", `The runtime refused memory for ${length} elements.`, {
      length,
    });
  }
}
