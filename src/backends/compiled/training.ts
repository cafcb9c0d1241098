/**
 * Training arithmetic on the C kernels (kernels/train_*.c). Calls write op records into a command buffer (training-ops.ts);
 * one `machine.run` executes them when something is read, written or freed, or when the buffer is full.
 */
import { rowBytes } from "../../formats/blocks/contract.js";
import { blockFormat } from "../../formats/blocks/index.js";
import type { TensorType } from "../../formats/checkpoint.js";
import type { Activation } from "../../tape/tape.js";
import type { Region } from "../contract.js";
import { noiseKeys } from "../normal-noise.js";
import type {
  Angles,
  AttentionShape,
  Grouping,
  Ids,
  Matrix,
  StoredRows,
  TrainingArithmetic,
  Values,
} from "../training.js";
import {
  check,
  checkAttention,
  checkCombine,
  checkCombineBackward,
  checkCount,
  checkGroups,
  checkRoute,
  checkRuns,
  checkShape,
  checkSpread,
  gateWidth,
} from "../training-checks.js";
import { ACTIVATIONS, align, OP, type OpCode, PANEL, ROPE_STYLES, weightTypeNumber } from "./abi.js";
import type { Machine } from "./machine.js";
import { CompiledIds, CompiledRows, CompiledValues, ownedBy } from "./training-memory.js";
import { type Fields, TrainingOps } from "./training-ops.js";

/** Elements per partial sum of squares: SEGMENT of kernels/train.h. */
const SEGMENT = 4096;
/** Partial sums of a norm's weight gradient. */
const NORM_PARTS = 64;
/** Rows of keys or queries that attention computes at a time, and the widest head: kernels/train_tile.h. */
const BLOCK_ROWS = 96;
const WIDEST_HEAD = 256;
/** Columns of a product that a thread takes at most, and about how many rows and columns at least. */
const WIDEST_TASK = 512;
const TASK_ROWS = 128;
const TASK_COLUMNS = 64;
/** Whole tiles of every target. */
const ROW_STEP = 12;
const COLUMN_STEP = 32;
/** Which gradients attention's backward op adds to, as bits. */
const D_Q = 1;
const D_KV = 2;

export class CompiledTraining implements TrainingArithmetic {
  readonly precision = "f32";
  readonly #machine: Machine;
  readonly #ops: TrainingOps;
  /** Partial sums; grows on demand. */
  #parts: CompiledValues | null = null;

  /** Throws OUT_OF_BUDGET where the machine refuses the threads' scratch memory. */
  constructor(machine: Machine) {
    this.#machine = machine;
    this.#ops = new TrainingOps(machine);
  }

  get numThreads(): number {
    return this.#machine.numThreads;
  }

  get bytes(): { readonly current: number; readonly peak: number } {
    return { ...this.#ops.bytes };
  }

  resetPeak(): void {
    const { bytes } = this.#ops;
    bytes.peak = bytes.current;
  }

  allocate(length: number): CompiledValues {
    checkCount("length", length);
    return new CompiledValues(this.#ops, length);
  }

  allocateIds(length: number): CompiledIds {
    checkCount("length", length);
    return new CompiledIds(this.#ops, length);
  }

  store(type: TensorType, rows: number, columns: number, bytes: Uint8Array): CompiledRows {
    const bytesPerRow = rowBytes(type, columns);
    check(
      bytes.length === rows * bytesPerRow,
      `${bytes.length} bytes`,
      `${rows * bytesPerRow} for ${rows} rows`,
    );
    const { kernels } = this.#machine;
    const decode = kernels.panelBytes(weightTypeNumber(type), columns) === 0;
    const packed = weightTypeNumber(decode ? "F32" : type);
    const panelBytes = kernels.panelBytes(packed, columns);
    const region = this.#ops.claim(Math.ceil(rows / PANEL) * panelBytes);
    const staged = decode ? rows * columns * 4 : bytes.length;
    let staging: Region | null = null;
    try {
      staging = this.#ops.claim(staged);
      if (decode) blockFormat(type).decode(bytes, staging.float32(0, rows * columns));
      else staging.bytes(0, staged).set(bytes);
      this.#machine.pack({
        type: packed,
        rows,
        columns,
        rowBytes: decode ? columns * 4 : bytesPerRow,
        panelBytes,
        from: staging.address,
        to: region.address,
      });
    } catch (error) {
      this.#ops.release(region);
      throw error;
    } finally {
      if (staging) this.#ops.release(staging);
    }
    return new CompiledRows(this.#ops, region, type, rows, columns, packed);
  }

  async sync(): Promise<void> {
    this.#ops.flush();
  }

  fill(out: Matrix, value: number): void {
    this.#elementwise(OP.TRAIN_ADD, [out, out], { f: [0, 0, value] });
  }

  copy(x: Matrix, out: Matrix): void {
    this.addScaled(x, out, 1, 0);
  }

  addScaled(x: Matrix, out: Matrix, alpha: number, beta: number): void {
    checkShape("out", out, x.rows, x.columns);
    this.#elementwise(OP.TRAIN_ADD, [x, out], { f: [alpha, beta, 0] });
  }

  addRow(bias: Matrix, out: Matrix): void {
    checkShape("bias", bias, 1, out.columns);
    this.#ops.record(OP.TRAIN_ADD_ROW, [bias, out]);
  }

  sumRows(x: Matrix, out: Matrix): void {
    checkShape("out", out, 1, x.columns);
    this.#ops.record(OP.TRAIN_SUM_ROWS, [x, out]);
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
    if (inner === 0) {
      if (!accumulate) this.fill(out, 0);
      return;
    }
    const { rows, columns } = taskOf(out, transposeB, this.numThreads);
    this.#ops.record(OP.TRAIN_MULTIPLY, [a, b, out], {
      i: [Number(transposeA), Number(transposeB), Number(accumulate), rows, columns],
      f: [alpha],
    });
  }

  decode(stored: StoredRows, firstRow: number, out: Matrix): void {
    const rows = ownedBy(this.#ops, stored, CompiledRows, "The stored rows lie");
    checkShape("out", out, out.rows, rows.columns);
    const last = firstRow + out.rows;
    check(firstRow >= 0 && last <= rows.rows, `rows ${firstRow} to ${last}`, `rows of ${rows.rows}`);
    this.#ops.record(OP.TRAIN_DECODE, [out], { i: [rows.packedType, firstRow], address: rows.address });
  }

  embed(ids: Ids, weight: Matrix, scale: number, out: Matrix): void {
    checkShape("out", out, ids.length, weight.columns);
    const address = this.#placeOf(ids, "The ids lie", 0, weight.rows);
    this.#ops.record(OP.TRAIN_EMBED, [weight, out], { f: [scale], address });
  }

  embedBackward(ids: Ids, dOut: Matrix, scale: number, dWeight: Matrix): void {
    checkShape("dOut", dOut, ids.length, dWeight.columns);
    const address = this.#placeOf(ids, "The ids lie", 0, dWeight.rows);
    this.#ops.record(OP.TRAIN_EMBED_BACKWARD, [dOut, dWeight], { f: [scale], address });
  }

  rmsNorm(x: Matrix, weight: Matrix | null, width: number, epsilon: number, out: Matrix): void {
    checkShape("out", out, x.rows, x.columns);
    checkRuns(x, width);
    if (weight) checkShape("weight", weight, 1, width);
    this.#ops.record(OP.TRAIN_NORM, [x, weight ?? x, out], {
      i: [width, Number(weight !== null)],
      f: [epsilon],
    });
  }

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
    checkRuns(x, width);
    if (weight) checkShape("weight", weight, 1, width);
    if (dWeight) checkShape("dWeight", dWeight, 1, width);
    const runs = x.rows * (x.columns / width);
    const perPart = Math.max(16, Math.ceil(runs / NORM_PARTS));
    const parts = dWeight ? this.#partials(Math.ceil(runs / perPart), width) : x;
    this.#ops.record(OP.TRAIN_NORM_BACKWARD, [x, weight ?? x, dOut, dX, parts], {
      i: [width, Number(weight !== null), perPart, Number(dWeight !== null)],
      f: [epsilon],
    });
    if (dWeight) this.sumRows(parts, dWeight);
  }

  rope(
    x: Matrix,
    headWidth: number,
    { values, pairs, style }: Angles,
    sequences: number,
    firstPosition: number,
    inverse: boolean,
  ): void {
    checkRuns(x, headWidth);
    check(
      2 * pairs <= headWidth,
      `${pairs} rotated pairs`,
      `at most half of a head of ${headWidth} elements`,
    );
    const perSequence = x.rows / sequences;
    const table = matrix(values, Math.floor(values.length / (2 * pairs)), 2 * pairs);
    check(
      Number.isInteger(perSequence) && firstPosition >= 0 && firstPosition + perSequence <= table.rows,
      `${x.rows} rows of ${sequences} sequences from position ${firstPosition}`,
      `whole sequences within a table of ${table.rows} positions`,
    );
    this.#ops.record(OP.TRAIN_ROPE, [x, table], {
      i: [headWidth, pairs, ROPE_STYLES[style], perSequence, firstPosition, Number(inverse)],
    });
  }

  attention(q: Matrix, k: Matrix, v: Matrix, shape: AttentionShape, out: Matrix, logSum: Matrix): void {
    checkAttention(shape, q, k, v, out, logSum);
    checkWidth(shape);
    this.#ops.record(OP.TRAIN_ATTENTION, [q, k, v, out, logSum], attentionFields(shape));
  }

  attentionBackward(
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
    checkWidth(shape);
    checkShape("dQ", dQ, q.rows, q.columns);
    checkShape("dK", dK, k.rows, k.columns);
    const queries = q.rows / shape.sequences;
    const keys = shape.firstQuery + queries;
    const matrices = [q, k, v, out, logSum, dOut, dQ, dK, dV];
    const { i, f } = attentionFields(shape);
    const record = (...how: number[]) =>
      this.#ops.record(OP.TRAIN_ATTENTION_BACKWARD, matrices, { i: [...i, ...how], f });
    const lanes = shape.sequences * shape.numKvHeads;
    const threads = this.numThreads;
    if (lanes % threads === 0 || lanes > 4 * threads) {
      record(D_Q | D_KV, queries, keys);
    } else {
      const parts = Math.ceil((4 * threads) / lanes);
      record(D_Q, align(Math.ceil(queries / parts), BLOCK_ROWS), keys);
      record(D_KV, queries, align(Math.ceil(keys / parts), BLOCK_ROWS));
    }
  }

  blend(x: Matrix, y: Matrix, gates: Matrix, out: Matrix): void {
    const width = gateWidth(x, y, gates);
    checkShape("out", out, x.rows, x.columns);
    this.#ops.record(OP.TRAIN_BLEND, [x, y, gates, out], { i: [width] });
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
    for (const [name, matrix] of Object.entries({ dOut, dX, dY })) {
      if (matrix) checkShape(name, matrix, x.rows, x.columns);
    }
    if (dGates) checkShape("dGates", dGates, 1, gates.columns);
    const parts = dGates ? this.#partials(x.rows, gates.columns) : x;
    this.#ops.record(OP.TRAIN_BLEND_BACKWARD, [x, y, gates, dOut, dX ?? x, dY ?? x, parts], {
      i: [width, Number(dX !== null), Number(dY !== null), Number(dGates !== null)],
    });
    if (dGates) this.sumRows(parts, dGates);
  }

  glu(gate: Matrix, up: Matrix, activation: Activation, out: Matrix): void {
    checkShape("up", up, gate.rows, gate.columns);
    checkShape("out", out, gate.rows, gate.columns);
    this.#elementwise(OP.TRAIN_GLU, [gate, up, out], { i: [ACTIVATIONS[activation]] });
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
    this.#elementwise(OP.TRAIN_GLU_BACKWARD, [gate, up, dOut, dGate, dUp], { i: [ACTIVATIONS[activation]] });
  }

  route(logits: Matrix, normalize: boolean, weights: Matrix, { places, starts }: Grouping): void {
    checkRoute(logits, weights, { places, starts });
    this.#ops.record(OP.TRAIN_ROUTE, [logits, weights, places], { i: [Number(normalize)] });
    this.#ops.record(OP.TRAIN_PLACES, [places, starts]);
  }

  routeBackward(logits: Matrix, normalize: boolean, dWeights: Matrix, dLogits: Matrix): void {
    checkRoute(logits, dWeights);
    checkShape("dLogits", dLogits, logits.rows, logits.columns);
    this.#ops.record(OP.TRAIN_ROUTE_BACKWARD, [logits, dWeights, dLogits], { i: [Number(normalize)] });
  }

  spread(x: Matrix, places: Matrix, out: Matrix): void {
    checkSpread(x, places, out);
    this.#ops.record(OP.TRAIN_SPREAD, [x, places, out]);
  }

  combine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void {
    checkCombine(x, weights, places, out);
    this.#ops.record(OP.TRAIN_COMBINE, [x, weights ?? x, places, out], { i: [Number(weights !== null)] });
  }

  combineBackward(
    x: Matrix,
    weights: Matrix,
    places: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dWeights: Matrix | null,
  ): void {
    checkCombineBackward(x, weights, places, dOut, dX, dWeights);
    const matrices = [x, weights, places, dOut, dX ?? x, dWeights ?? weights];
    this.#ops.record(OP.TRAIN_COMBINE_BACKWARD, matrices, {
      i: [Number(dX !== null), Number(dWeights !== null)],
    });
  }

  multiplyGroups(
    a: Matrix,
    b: Matrix,
    starts: Matrix,
    out: Matrix,
    options: { transposeA?: boolean; transposeB?: boolean; accumulate?: boolean } = {},
  ): void {
    const { transposeA = false, transposeB = false, accumulate = false } = options;
    checkGroups(a, b, starts, out, { transposeA, transposeB });
    if (starts.columns < 2 || out.columns === 0 || (transposeA ? a.columns : a.rows) === 0) return;
    const across = Math.ceil(out.columns / WIDEST_TASK);
    this.#ops.record(OP.TRAIN_MULTIPLY_GROUPS, [a, b, out, starts], {
      i: [
        ...[Number(transposeA), Number(transposeB), Number(accumulate)],
        ...[2 * BLOCK_ROWS, align(Math.ceil(out.columns / across), COLUMN_STEP)],
      ],
    });
  }

  crossEntropy(logits: Matrix, targets: Ids, firstTarget: number, weights: Matrix, losses: Matrix): void {
    checkShape("weights", weights, logits.rows, 1);
    checkShape("losses", losses, logits.rows, 1);
    const last = firstTarget + logits.rows;
    check(
      firstTarget >= 0 && last <= targets.length,
      `targets ${firstTarget} to ${last}`,
      `targets of ${targets.length}`,
    );
    const first = this.#placeOf(targets, "The targets lie", -1, logits.columns);
    this.#ops.record(OP.TRAIN_LOSS, [logits, weights, losses], { address: first + 4 * firstTarget });
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
    const factors = [beta1, 1 - beta1, beta2, 1 - beta2];
    const root = 1 / Math.sqrt(1 - beta2 ** step);
    factors.push(root, epsilon, rate / (1 - beta1 ** step), 1 - rate * decay);
    this.#elementwise(OP.TRAIN_ADAMW, [weight, gradient, m, v], {
      i: [...new Int32Array(Float32Array.from(factors).buffer)],
    });
  }

  sumSquares(x: Matrix, out: Matrix): void {
    checkShape("out", out, 1, 1);
    const [all] = flat([x]) as [Matrix];
    const parts = this.#partials(all.rows * Math.ceil(all.columns / SEGMENT), 1);
    this.#ops.record(OP.TRAIN_SUM_SQUARES, [all, parts]);
    this.sumRows(parts, out);
  }

  rowNorms(x: Matrix, out: Matrix): void {
    checkShape("out", out, x.rows, 1);
    this.#ops.record(OP.TRAIN_ROW_NORMS, [x, out]);
  }

  scaleRows(x: Matrix, scale: Matrix, out: Matrix): void {
    checkShape("scale", scale, x.rows, 1);
    checkShape("out", out, x.rows, x.columns);
    this.#ops.record(OP.TRAIN_SCALE_ROWS, [x, scale, out]);
  }

  addNormal(out: Matrix, seed: number, alpha: number, beta: number): void {
    check(Number.isSafeInteger(seed) && seed >= 0, `seed ${seed}`, "a whole number from 0 below 2^53");
    this.#elementwise(OP.TRAIN_NORMAL, [out], { i: noiseKeys(seed), f: [alpha, beta] });
  }

  /** Frees what belongs to the arithmetic itself; every `Values` is its holder's to free. */
  dispose(): void {
    this.#parts?.free();
    this.#ops.dispose();
  }

  /** An op that does not look at rows: matrices without gaps are taken as one long row. */
  #elementwise(code: OpCode, matrices: readonly Matrix[], fields: Fields): void {
    this.#ops.record(code, flat(matrices), fields);
  }

  /** Room for partial sums, of one op at a time. */
  #partials(rows: number, columns: number): Matrix {
    if (!this.#parts || this.#parts.length < rows * columns) {
      this.#parts?.free();
      this.#parts = this.allocate(rows * columns);
    }
    return matrix(this.#parts, rows, columns);
  }

  /** Where ids lie that are from `least` up to `end`. Throws INVALID_ARGUMENT, INVALID_TOKEN. */
  #placeOf(ids: Ids, what: string, least: number, end: number): number {
    return ownedBy(this.#ops, ids, CompiledIds, what).within(least, end);
  }
}

/** Rows and columns of a product that a thread takes at a time: enough pieces, none too small to pay for its packing. */
function taskOf(out: Matrix, transposeB: boolean, threads: number): { rows: number; columns: number } {
  const wanted = threads === 1 ? 1 : 4 * threads;
  const down = Math.max(1, Math.min(wanted, Math.floor(out.rows / (transposeB ? 2 * TASK_ROWS : TASK_ROWS))));
  const across = Math.max(
    Math.ceil(out.columns / WIDEST_TASK),
    Math.min(Math.ceil(wanted / down), Math.ceil(out.columns / TASK_COLUMNS)),
  );
  return {
    rows: align(Math.ceil(out.rows / down), ROW_STEP),
    columns: align(Math.ceil(out.columns / across), COLUMN_STEP),
  };
}

function attentionFields(shape: AttentionShape) {
  const { sequences, firstQuery, numHeads, numKvHeads, headWidth, window, sinks, scale, softcap } = shape;
  return {
    i: [sequences, firstQuery, numHeads, numKvHeads, headWidth, window ?? 0, window === null ? 0 : sinks],
    f: [scale, softcap],
  };
}

function checkWidth({ headWidth }: AttentionShape): void {
  check(headWidth <= WIDEST_HEAD, `heads of ${headWidth} elements`, `at most ${WIDEST_HEAD}`);
}

/** Matrices without gaps between rows, as single rows; as they are where one of them has gaps. */
function flat(matrices: readonly Matrix[]): readonly Matrix[] {
  if (matrices.some(({ rows, columns, stride }) => rows > 1 && stride !== columns)) return matrices;
  return matrices.map(({ values, at, rows, columns }) => ({ ...matrix(values, 1, rows * columns), at }));
}

const matrix = (values: Values, rows: number, columns: number): Matrix => ({
  values,
  at: 0,
  rows,
  columns,
  stride: columns,
});
