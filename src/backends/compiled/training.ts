/**
 * Training arithmetic on the C kernels (kernels/train_*.c). Calls write op records into a command buffer; one
 * `machine.run` executes them when something is read, written or freed, or when the buffer is full.
 */
import { MillraceError } from "../../errors.js";
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
  ACTIVATIONS,
  align,
  BARRIER_WORDS,
  MATRIX,
  OP,
  OP_RECORD,
  type OpCode,
  PANEL,
  PROGRAM,
  putAddress,
  ROPE_STYLES,
  STEP,
  TRAIN_SCRATCH,
  weightTypeNumber,
} from "./abi.js";
import type { Machine } from "./machine.js";

/** Ops that are recorded before they are run. */
const MAX_OPS = 512;
/** Matrices of one op. */
const MAX_MATRICES = 9;
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
/** Whole numbers that f32 counts to without leaving one out. */
const MAX_ROUTES = 2 ** 24;
/** Whole tiles of every target. */
const ROW_STEP = 12;
const COLUMN_STEP = 32;
/** Which gradients attention's backward op adds to, as bits. */
const D_Q = 1;
const D_KV = 2;

/** Fields of an op's record beside its matrices. */
interface Fields {
  readonly i?: readonly number[];
  readonly f?: readonly number[];
  /** p[2]. */
  readonly address?: number;
}

export class CompiledTraining implements TrainingArithmetic {
  readonly precision = "f32";
  readonly #machine: Machine;
  readonly #control: Region;
  readonly #layout: ReturnType<typeof controlLayout>;
  readonly #scratch: Region;
  readonly #bytes = { current: 0, peak: 0 };
  /** Partial sums; grows on demand. */
  #parts: CompiledValues | null = null;
  #numOps = 0;

  /** Throws OUT_OF_BUDGET where the machine refuses the threads' scratch memory. */
  constructor(machine: Machine) {
    this.#machine = machine;
    this.#layout = controlLayout();
    this.#control = this.#claim(this.#layout.bytes);
    this.#scratch = this.#claim(machine.numThreads * TRAIN_SCRATCH * 4);
    const { address } = this.#control;
    const words = this.#control.int32(this.#layout.program, PROGRAM.bytes >> 2);
    putAddress(words, PROGRAM.ops >> 2, address + this.#layout.ops);
    putAddress(words, PROGRAM.step >> 2, address + this.#layout.step);
    putAddress(words, PROGRAM.counters >> 2, address + this.#layout.counters);
    putAddress(words, PROGRAM.barrier >> 2, address + this.#layout.barrier);
    words[PROGRAM.threads >> 2] = machine.numThreads;
  }

  get numThreads(): number {
    return this.#machine.numThreads;
  }

  get bytes(): { readonly current: number; readonly peak: number } {
    return { ...this.#bytes };
  }

  resetPeak(): void {
    this.#bytes.peak = this.#bytes.current;
  }

  allocate(length: number): CompiledValues {
    checkCount("length", length);
    const region = this.#claim(4 * length);
    return new CompiledValues(this, region, length, () => this.#release(region));
  }

  allocateIds(length: number): CompiledIds {
    checkCount("length", length);
    const region = this.#claim(4 * length);
    return new CompiledIds(this, region, length, () => this.#release(region));
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
    const region = this.#claim(Math.ceil(rows / PANEL) * panelBytes);
    const staged = decode ? rows * columns * 4 : bytes.length;
    let staging: Region | null = null;
    try {
      staging = this.#claim(staged);
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
      this.#release(region);
      throw error;
    } finally {
      if (staging) this.#release(staging);
    }
    return new CompiledRows(this, region, type, rows, columns, packed, () => this.#release(region));
  }

  async sync(): Promise<void> {
    this.flush();
  }

  /** Runs what was recorded. */
  flush(): void {
    if (this.#numOps === 0) return;
    const { program, counters } = this.#layout;
    this.#control.int32(program, PROGRAM.bytes >> 2)[PROGRAM.numOps >> 2] = this.#numOps;
    this.#control.int32(counters, this.#numOps).fill(0);
    this.#numOps = 0;
    this.#machine.run(this.#control.address + program);
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
    this.#record(OP.TRAIN_ADD_ROW, [bias, out]);
  }

  sumRows(x: Matrix, out: Matrix): void {
    checkShape("out", out, 1, x.columns);
    this.#record(OP.TRAIN_SUM_ROWS, [x, out]);
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
    this.#record(OP.TRAIN_MULTIPLY, [a, b, out], {
      i: [Number(transposeA), Number(transposeB), Number(accumulate), rows, columns],
      f: [alpha],
    });
  }

  decode(stored: StoredRows, firstRow: number, out: Matrix): void {
    const rows = this.#own(stored, CompiledRows, "The stored rows lie");
    checkShape("out", out, out.rows, rows.columns);
    const last = firstRow + out.rows;
    check(firstRow >= 0 && last <= rows.rows, `rows ${firstRow} to ${last}`, `rows of ${rows.rows}`);
    this.#record(OP.TRAIN_DECODE, [out], { i: [rows.packedType, firstRow], address: rows.address });
  }

  embed(ids: Ids, weight: Matrix, scale: number, out: Matrix): void {
    checkShape("out", out, ids.length, weight.columns);
    const address = this.#own(ids, CompiledIds, "The ids lie").within(0, weight.rows);
    this.#record(OP.TRAIN_EMBED, [weight, out], { f: [scale], address });
  }

  embedBackward(ids: Ids, dOut: Matrix, scale: number, dWeight: Matrix): void {
    checkShape("dOut", dOut, ids.length, dWeight.columns);
    const address = this.#own(ids, CompiledIds, "The ids lie").within(0, dWeight.rows);
    this.#record(OP.TRAIN_EMBED_BACKWARD, [dOut, dWeight], { f: [scale], address });
  }

  rmsNorm(x: Matrix, weight: Matrix | null, width: number, epsilon: number, out: Matrix): void {
    checkShape("out", out, x.rows, x.columns);
    checkRuns(x, width);
    if (weight) checkShape("weight", weight, 1, width);
    this.#record(OP.TRAIN_NORM, [x, weight ?? x, out], { i: [width, Number(weight !== null)], f: [epsilon] });
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
    this.#record(OP.TRAIN_NORM_BACKWARD, [x, weight ?? x, dOut, dX, parts], {
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
    this.#record(OP.TRAIN_ROPE, [x, table], {
      i: [headWidth, pairs, ROPE_STYLES[style], perSequence, firstPosition, Number(inverse)],
    });
  }

  attention(q: Matrix, k: Matrix, v: Matrix, shape: AttentionShape, out: Matrix, logSum: Matrix): void {
    checkAttention(shape, q, k, v, out, logSum);
    this.#record(OP.TRAIN_ATTENTION, [q, k, v, out, logSum], attentionFields(shape));
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
    checkShape("dQ", dQ, q.rows, q.columns);
    checkShape("dK", dK, k.rows, k.columns);
    const queries = q.rows / shape.sequences;
    const keys = shape.firstQuery + queries;
    const matrices = [q, k, v, out, logSum, dOut, dQ, dK, dV];
    const { i, f } = attentionFields(shape);
    const record = (...how: number[]) =>
      this.#record(OP.TRAIN_ATTENTION_BACKWARD, matrices, { i: [...i, ...how], f });
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
    this.#record(OP.TRAIN_BLEND, [x, y, gates, out], { i: [width] });
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
    this.#record(OP.TRAIN_BLEND_BACKWARD, [x, y, gates, dOut, dX ?? x, dY ?? x, parts], {
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
    const { rows, columns } = checkRoute(logits, weights);
    checkShape("weights", weights, rows, columns);
    checkShape("places", places, rows, columns);
    checkShape("starts", starts, 1, logits.columns + 1);
    this.#record(OP.TRAIN_ROUTE, [logits, weights, places], { i: [Number(normalize)] });
    this.#record(OP.TRAIN_PLACES, [places, starts]);
  }

  routeBackward(logits: Matrix, normalize: boolean, dWeights: Matrix, dLogits: Matrix): void {
    checkRoute(logits, dWeights);
    checkShape("dLogits", dLogits, logits.rows, logits.columns);
    this.#record(OP.TRAIN_ROUTE_BACKWARD, [logits, dWeights, dLogits], { i: [Number(normalize)] });
  }

  spread(x: Matrix, places: Matrix, out: Matrix): void {
    checkShape("places", places, x.rows, places.columns);
    checkShape("out", out, x.rows * places.columns, x.columns);
    this.#record(OP.TRAIN_SPREAD, [x, places, out]);
  }

  combine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void {
    checkShape("x", x, out.rows * places.columns, out.columns);
    checkShape("places", places, out.rows, places.columns);
    if (weights) checkShape("weights", weights, out.rows, places.columns);
    this.#record(OP.TRAIN_COMBINE, [x, weights ?? x, places, out], { i: [Number(weights !== null)] });
  }

  combineBackward(
    x: Matrix,
    weights: Matrix,
    places: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dWeights: Matrix | null,
  ): void {
    checkShape("x", x, dOut.rows * places.columns, dOut.columns);
    checkShape("places", places, dOut.rows, places.columns);
    checkShape("weights", weights, dOut.rows, places.columns);
    if (dX) checkShape("dX", dX, x.rows, x.columns);
    if (dWeights) checkShape("dWeights", dWeights, weights.rows, weights.columns);
    const matrices = [x, weights, places, dOut, dX ?? x, dWeights ?? weights];
    this.#record(OP.TRAIN_COMBINE_BACKWARD, matrices, {
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
    this.#record(OP.TRAIN_MULTIPLY_GROUPS, [a, b, out, starts], {
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
    const first = this.#own(targets, CompiledIds, "The targets lie").within(-1, logits.columns);
    this.#record(OP.TRAIN_LOSS, [logits, weights, losses], { address: first + 4 * firstTarget });
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
    this.#record(OP.TRAIN_SUM_SQUARES, [all, parts]);
    this.sumRows(parts, out);
  }

  rowNorms(x: Matrix, out: Matrix): void {
    checkShape("out", out, x.rows, 1);
    this.#record(OP.TRAIN_ROW_NORMS, [x, out]);
  }

  scaleRows(x: Matrix, scale: Matrix, out: Matrix): void {
    checkShape("scale", scale, x.rows, 1);
    checkShape("out", out, x.rows, x.columns);
    this.#record(OP.TRAIN_SCALE_ROWS, [x, scale, out]);
  }

  addNormal(out: Matrix, seed: number, alpha: number, beta: number): void {
    check(Number.isSafeInteger(seed) && seed >= 0, `seed ${seed}`, "a whole number from 0 below 2^53");
    this.#elementwise(OP.TRAIN_NORMAL, [out], { i: noiseKeys(seed), f: [alpha, beta] });
  }

  /** Frees what belongs to the arithmetic itself; every `Values` is its holder's to free. */
  dispose(): void {
    this.#parts?.free();
    this.flush();
    this.#release(this.#scratch);
    this.#release(this.#control);
  }

  /** An op that does not look at rows: matrices without gaps are taken as one long row. */
  #elementwise(code: OpCode, matrices: readonly Matrix[], fields: Fields): void {
    this.#record(code, flat(matrices), fields);
  }

  /** Writes an op's record; it waits for all that was recorded before. */
  #record(code: OpCode, matrices: readonly Matrix[], { i = [], f = [], address = 0 }: Fields = {}): void {
    const places = matrices.map((m) => this.#own(m.values, CompiledValues, "A matrix lies").place(m));
    if (this.#numOps === MAX_OPS) this.flush();
    const index = this.#numOps++;
    const opAt = this.#layout.ops + index * OP_RECORD.bytes;
    const matricesAt = this.#layout.matrices + index * MAX_MATRICES * MATRIX.bytes;
    const words = this.#control.int32(opAt, OP_RECORD.bytes >> 2);
    words.fill(0);
    words[OP_RECORD.code >> 2] = code;
    words[OP_RECORD.barrier >> 2] = index > 0 ? 1 : 0;
    words.set(i, OP_RECORD.i >> 2);
    this.#control.float32(opAt + OP_RECORD.f, OP_RECORD.numF).set(f);
    putAddress(words, OP_RECORD.p >> 2, this.#control.address + matricesAt);
    putAddress(words, (OP_RECORD.p >> 2) + 2, this.#scratch.address);
    putAddress(words, (OP_RECORD.p >> 2) + 4, address);
    const fields = this.#control.int32(matricesAt, (matrices.length * MATRIX.bytes) >> 2);
    matrices.forEach(({ stride, rows, columns }, index) => {
      const at = (index * MATRIX.bytes) >> 2;
      putAddress(fields, at + (MATRIX.at >> 2), places[index]!);
      putAddress(fields, at + (MATRIX.stride >> 2), stride);
      fields[at + (MATRIX.rows >> 2)] = rows;
      fields[at + (MATRIX.columns >> 2)] = columns;
    });
  }

  /** Room for partial sums, of one op at a time. */
  #partials(rows: number, columns: number): Matrix {
    if (!this.#parts || this.#parts.length < rows * columns) {
      this.#parts?.free();
      this.#parts = this.allocate(rows * columns);
    }
    return matrix(this.#parts, rows, columns);
  }

  #own<T extends { readonly owner: CompiledTraining }>(
    thing: unknown,
    kind: abstract new (...args: never[]) => T,
    what: string,
  ): T {
    if (thing instanceof kind && thing.owner === this) return thing;
    throw new MillraceError("INVALID_ARGUMENT", `${what} in memory that this backend did not allocate.`);
  }

  #claim(byteLength: number): Region {
    const region = this.#machine.allocate(byteLength);
    this.#bytes.current += byteLength;
    this.#bytes.peak = Math.max(this.#bytes.peak, this.#bytes.current);
    return region;
  }

  /** Frees a region once nothing that was recorded needs it. */
  #release(region: Region): void {
    this.flush();
    this.#bytes.current -= region.byteLength;
    region.free();
  }
}

/** Memory of this arithmetic; not used after `free`. */
abstract class Counted {
  readonly owner: CompiledTraining;
  readonly #region: Region;
  readonly #release: () => void;
  #freed = false;

  constructor(owner: CompiledTraining, region: Region, release: () => void) {
    this.owner = owner;
    this.#region = region;
    this.#release = release;
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#release();
  }

  /** Throws INVALID_ARGUMENT after `free`. */
  protected get region(): Region {
    if (this.#freed) throw new MillraceError("INVALID_ARGUMENT", "Memory was used after it was freed.");
    return this.#region;
  }
}

class CompiledValues extends Counted implements Values {
  readonly length: number;

  constructor(owner: CompiledTraining, region: Region, length: number, release: () => void) {
    super(owner, region, release);
    this.length = length;
  }

  async read(at = 0, length = this.length - at): Promise<Float32Array> {
    checkRange("read", at, length, this.length);
    this.owner.flush();
    const copy = new Float32Array(length);
    eachView(at, length, (from, count) => {
      copy.set(this.region.float32(4 * from, count), from - at);
    });
    return copy;
  }

  async write(values: ArrayLike<number>, at = 0): Promise<void> {
    checkRange("written", at, values.length, this.length);
    this.owner.flush();
    const { region } = this;
    eachView(at, values.length, (from, count) => {
      const whole =
        count === values.length ? values : Array.prototype.slice.call(values, from - at, from - at + count);
      region.float32(4 * from, count).set(whole);
    });
  }

  /** The address of a matrix's first element. Throws INVALID_ARGUMENT for a matrix outside this memory. */
  place({ at, rows, columns, stride }: Matrix): number {
    const end = rows === 0 ? at : at + (rows - 1) * stride + columns;
    if (at < 0 || rows < 0 || columns < 0 || (rows > 1 && columns > stride) || end > this.length) {
      throw new MillraceError(
        "INVALID_ARGUMENT",
        `Matrix [${rows}, ${columns}] at ${at} with stride ${stride} ends at ${end}; its memory holds ${this.length}.`,
        { rows, columns, at, stride, length: this.length },
      );
    }
    return this.region.address + 4 * at;
  }
}

class CompiledIds extends Counted implements Ids {
  readonly length: number;
  /** Zeros where nothing was written. */
  #least = 0;
  #most = 0;

  constructor(owner: CompiledTraining, region: Region, length: number, release: () => void) {
    super(owner, region, release);
    this.length = length;
  }

  async write(values: ArrayLike<number>): Promise<void> {
    checkRange("written", 0, values.length, this.length);
    this.owner.flush();
    const ids = this.region.int32(0, this.length);
    ids.set(values);
    this.#least = ids.reduce((least, id) => Math.min(least, id), 0);
    this.#most = ids.reduce((most, id) => Math.max(most, id), 0);
  }

  /** Their address. Throws INVALID_TOKEN for an id below `least` or from `end` on. */
  within(least: number, end: number): number {
    if (this.#least < least || this.#most >= end) {
      const token = this.#least < least ? this.#least : this.#most;
      throw new MillraceError("INVALID_TOKEN", `Id ${token} lies outside ${least} to ${end - 1}.`, { token });
    }
    return this.region.address;
  }
}

class CompiledRows extends Counted implements StoredRows {
  readonly type: TensorType;
  readonly rows: number;
  readonly columns: number;
  /** Number of the type in packed form. */
  readonly packedType: number;

  constructor(
    owner: CompiledTraining,
    region: Region,
    type: TensorType,
    rows: number,
    columns: number,
    packedType: number,
    release: () => void,
  ) {
    super(owner, region, release);
    this.type = type;
    this.rows = rows;
    this.columns = columns;
    this.packedType = packedType;
  }

  get address(): number {
    return this.region.address;
  }
}

/** Offsets in the control region: the interpreter's structs, and the ops with their matrices. */
function controlLayout() {
  let bytes = 0;
  const take = (length: number): number => {
    const at = bytes;
    bytes += align(length);
    return at;
  };
  return {
    program: take(PROGRAM.bytes),
    barrier: take(BARRIER_WORDS * 4),
    step: take(STEP.words * 4),
    counters: take(MAX_OPS * 4),
    ops: take(MAX_OPS * OP_RECORD.bytes),
    matrices: take(MAX_OPS * MAX_MATRICES * MATRIX.bytes),
    get bytes(): number {
      return bytes;
    },
  };
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

function checkAttention(
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
  check(headWidth <= WIDEST_HEAD, `heads of ${headWidth} elements`, `at most ${WIDEST_HEAD}`);
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

/** Throws INVALID_ARGUMENT where a choice's weights do not fit its logits. */
function checkRoute(logits: Matrix, weights: Matrix): { rows: number; columns: number } {
  const { rows, columns } = weights;
  checkShape("weights", weights, logits.rows, columns);
  check(
    columns >= 1 && columns <= logits.columns && rows * columns <= MAX_ROUTES,
    `${columns} of ${logits.columns} experts for ${rows} rows`,
    `1 to all experts, and at most ${MAX_ROUTES} visits`,
  );
  return { rows, columns };
}

/** Throws INVALID_ARGUMENT for operands of `multiplyGroups` that do not fit. */
function checkGroups(
  a: Matrix,
  b: Matrix,
  starts: Matrix,
  out: Matrix,
  { transposeA, transposeB }: { transposeA: boolean; transposeB: boolean },
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

/** Host views of a region may not be longer than this many numbers (1 GiB). */
const VIEW_LENGTH = 2 ** 28;

function eachView(at: number, length: number, use: (from: number, count: number) => void): void {
  for (let from = at; from < at + length; from += VIEW_LENGTH)
    use(from, Math.min(VIEW_LENGTH, at + length - from));
}

/** Columns of each gate. Throws INVALID_ARGUMENT for what cannot be blended. */
function gateWidth(x: Matrix, y: Matrix, gates: Matrix): number {
  checkShape("y", y, x.rows, x.columns);
  checkShape("gates", gates, 1, gates.columns);
  check(x.columns % gates.columns === 0, `${gates.columns} gates`, `a divisor of ${x.columns} columns`);
  return x.columns / gates.columns;
}

function checkRuns(x: Matrix, width: number): void {
  check(width > 0 && x.columns % width === 0, `rows of ${x.columns}`, `a multiple of ${width}`);
}

/** Throws INVALID_ARGUMENT where a matrix is not [rows, columns]. */
function checkShape(name: string, matrix: Matrix, rows: number, columns: number): void {
  if (matrix.rows === rows && matrix.columns === columns) return;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `${name} is [${matrix.rows}, ${matrix.columns}]; expected [${rows}, ${columns}].`,
    { name, rows: matrix.rows, columns: matrix.columns },
  );
}

function checkRange(verb: string, at: number, length: number, total: number): void {
  check(
    at >= 0 && length >= 0 && at + length <= total,
    `numbers ${at} to ${at + length} to be ${verb}`,
    `a range within ${total}`,
  );
}

function checkCount(name: string, value: number): void {
  check(Number.isSafeInteger(value) && value >= 0, `a ${name} of ${value}`, "a whole number from 0");
}

function check(condition: boolean, got: string, expected: string): void {
  if (condition) return;
  throw new MillraceError("INVALID_ARGUMENT", `Got ${got}; expected ${expected}.`, { got, expected });
}
