/**
 * The arithmetic that training needs beside inference: dense f32 matrices in backend memory and the operations on
 * them, forward and backward. A backend that can train offers it as `Backend.training()`; src/train/ walks a model's
 * tape over it.
 *
 * Operations are recorded and run in order; the host waits only when it reads (`sync`, `Values.read`). Everything is
 * deterministic: the same calls give the same bits whatever the number of threads.
 *
 * `reference` in double precision (`createReferenceTraining`) is the living definition, and what gradients are
 * checked with; the compiled backends run kernels/train_*.c.
 *
 * Shape letters: N rows, S sequences of a batch, n = N / S rows of one, H query heads, K kv heads, D head width,
 * V vocabulary, X experts, k experts of a token.
 */
import type { TensorType } from "../formats/checkpoint.js";
import type { Activation } from "../tape/tape.js";

/** A run of numbers in backend memory, zero when made. */
export interface Values {
  readonly length: number;
  /** A copy of `length` numbers from `at` on, once all that was recorded before has run. */
  read(at?: number, length?: number): Promise<Float32Array | Float64Array>;
  /** Overwrites numbers from `at` on, after all that was recorded before. */
  write(values: ArrayLike<number>, at?: number): Promise<void>;
  /** Idempotent. */
  free(): void;
}

/** Whole numbers in backend memory (token ids, targets). */
export interface Ids {
  readonly length: number;
  write(values: ArrayLike<number>): Promise<void>;
  free(): void;
}

/** Rows of a file's tensor as they are stored there, for frozen weights. */
export interface StoredRows {
  readonly type: TensorType;
  readonly rows: number;
  readonly columns: number;
  free(): void;
}

/** A row-major matrix inside `values`: row r starts at `at + r * stride`. Matrices of one call may not overlap. */
export interface Matrix {
  readonly values: Values;
  readonly at: number;
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
}

/** Cosines and sines by position, f32 [positions][2][pairs], cos then sin. */
export interface Angles {
  readonly values: Values;
  readonly pairs: number;
  readonly style: "interleaved" | "half";
}

/**
 * Causal attention of `sequences` sequences that lie one after another, over the keys of the same sequence. Of every
 * sequence, queries are at positions firstQuery .. firstQuery + n - 1 and keys at 0 .. m - 1, where n = q.rows /
 * sequences and m = k.rows / sequences; a query at p sees keys at 0 .. p or, where there is a window, those of them at
 * p - window + 1 .. p and the first `sinks`. Needs firstQuery + n <= m. Query head h reads kv head floor(h * K / H).
 */
export interface AttentionShape {
  readonly sequences: number;
  readonly firstQuery: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  readonly scale: number;
  /** 0: none. */
  readonly softcap: number;
  readonly window: number | null;
  /** Of meaning only beside a window. */
  readonly sinks: number;
}

/**
 * Where the rows of a batch go when each visits k experts: rows are grouped by expert, so that an expert's products
 * are dense ones of the rows of its group. Whole numbers, kept as numbers.
 */
export interface Grouping {
  /** [N, k]: the row, of N * k, where row t lies in the group of its j-th expert. */
  readonly places: Matrix;
  /** [1, X + 1]: where each expert's rows start, and N * k behind the last. Within a group rows are in t's order. */
  readonly starts: Matrix;
}

export interface TrainingArithmetic {
  /** "f64" only in the reference. */
  readonly precision: "f32" | "f64";
  readonly numThreads: number;
  /** Bytes that are allocated now, and the most that ever were since `resetPeak`. */
  readonly bytes: { readonly current: number; readonly peak: number };
  resetPeak(): void;

  /** Throws OUT_OF_BUDGET where the machine refuses. */
  allocate(length: number): Values;
  allocateIds(length: number): Ids;
  /** Throws UNSUPPORTED_TENSOR_TYPE, OUT_OF_BUDGET. `bytes` are `rows` stored rows. */
  store(type: TensorType, rows: number, columns: number, bytes: Uint8Array): StoredRows;

  /** Runs what was recorded; resolves when it is done. Throws WORKER_CRASHED. */
  sync(): Promise<void>;

  // -- matrices
  fill(out: Matrix, value: number): void;
  copy(x: Matrix, out: Matrix): void;
  /** out = beta * out + alpha * x. */
  addScaled(x: Matrix, out: Matrix, alpha: number, beta: number): void;
  /** out[r] += bias [1, columns] for every row. */
  addRow(bias: Matrix, out: Matrix): void;
  /** out [1, columns] += sum over the rows of x. */
  sumRows(x: Matrix, out: Matrix): void;
  /** out = A B (+ out where accumulate), times alpha; `transposeA` reads A as its transpose, likewise B. */
  multiply(
    a: Matrix,
    b: Matrix,
    out: Matrix,
    options?: { transposeA?: boolean; transposeB?: boolean; alpha?: number; accumulate?: boolean },
  ): void;
  /** Decodes stored rows firstRow .. firstRow + out.rows - 1 into out. */
  decode(stored: StoredRows, firstRow: number, out: Matrix): void;

  // -- a decoder's operations; every `d...` output is ADDED to what is there
  /** out[r] = scale * weight[ids[r]]. */
  embed(ids: Ids, weight: Matrix, scale: number, out: Matrix): void;
  /** dWeight[ids[r]] += scale * dOut[r], rows of equal id in ascending r. */
  embedBackward(ids: Ids, dOut: Matrix, scale: number, dWeight: Matrix): void;
  /** As the tape's rmsNorm: every run of `width` elements of a row. `weight` is [1, width] or null (all 1). */
  rmsNorm(x: Matrix, weight: Matrix | null, width: number, epsilon: number, out: Matrix): void;
  /** dX += ..., dWeight [1, width] += ... where given. */
  rmsNormBackward(
    x: Matrix,
    weight: Matrix | null,
    width: number,
    epsilon: number,
    dOut: Matrix,
    dX: Matrix,
    dWeight: Matrix | null,
  ): void;
  /**
   * Rotates, in place, the first 2 x pairs elements of every head of every row; row r of a sequence of n rows is at
   * position firstPosition + (r mod n), n = x.rows / sequences. `inverse` rotates the other way,
   * magnitude included: the transpose, which is the gradient.
   */
  rope(
    x: Matrix,
    headWidth: number,
    angles: Angles,
    sequences: number,
    firstPosition: number,
    inverse: boolean,
  ): void;
  /** q [S*n, H*D], k and v [S*m, K*D], out as q; logSum [S*n, H]: log of each query's softmax denominator. */
  attention(q: Matrix, k: Matrix, v: Matrix, shape: AttentionShape, out: Matrix, logSum: Matrix): void;
  attentionBackward(
    forward: { q: Matrix; k: Matrix; v: Matrix; out: Matrix; logSum: Matrix },
    shape: AttentionShape,
    dOut: Matrix,
    dQ: Matrix,
    dK: Matrix,
    dV: Matrix,
  ): void;
  /**
   * out = gate * x + (1 - gate) * y: each of `gates` [1, G] is that of columns / G columns, the first gate that of the
   * first ones.
   */
  blend(x: Matrix, y: Matrix, gates: Matrix, out: Matrix): void;
  /**
   * dX += gate * dOut, dY += (1 - gate) * dOut, dGates [1, G] += the sum of dOut * (x - y) over the rows and the
   * gate's columns; null: not wanted.
   */
  blendBackward(
    x: Matrix,
    y: Matrix,
    gates: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dY: Matrix | null,
    dGates: Matrix | null,
  ): void;
  /** out = activation(gate) * up. */
  glu(gate: Matrix, up: Matrix, activation: Activation, out: Matrix): void;
  gluBackward(
    gate: Matrix,
    up: Matrix,
    activation: Activation,
    dOut: Matrix,
    dGate: Matrix,
    dUp: Matrix,
  ): void;

  // -- mixtures of experts; groupings must be as `route` left them
  /**
   * Chooses the k = weights.columns largest logits [N, X] of every row, ties to the lower expert. weights [N, k] are
   * the choices' softmax(logits), largest first, scaled to sum 1 where `normalize`. Needs N * k <= 2^24.
   */
  route(logits: Matrix, normalize: boolean, weights: Matrix, grouping: Grouping): void;
  /** The choice is taken as it is: dLogits += the gradient through the softmax, and the scaling, of what was chosen. */
  routeBackward(logits: Matrix, normalize: boolean, dWeights: Matrix, dLogits: Matrix): void;
  /** out[places[t, j]] = x[t], for x [N, width] and out [N * k, width]. */
  spread(x: Matrix, places: Matrix, out: Matrix): void;
  /** out[t] += sum over j of weights[t, j] * x[places[t, j]], j ascending; `weights` null: 1. */
  combine(x: Matrix, weights: Matrix | null, places: Matrix, out: Matrix): void;
  /** dX[places[t, j]] += weights[t, j] * dOut[t]; dWeights[t, j] += x[places[t, j]] . dOut[t]; null: not wanted. */
  combineBackward(
    x: Matrix,
    weights: Matrix,
    places: Matrix,
    dOut: Matrix,
    dX: Matrix | null,
    dWeights: Matrix | null,
  ): void;
  /**
   * A product for each group of rows starts[g] .. starts[g + 1] - 1, G = starts.columns - 1 groups (those of
   * `starts` may be some of a grouping's):
   * out_g = A_g B_g (B_g^T where transposeB), rows of a group of A times one of the G matrices that lie one under
   * another in B; rows of out that belong to no group stay as they are.
   * transposeA: out_g = A_g^T B_g, rows of a group of A and of B, onto one of the G matrices in out; 0 for a group
   * without rows.
   * `accumulate` adds to what is there.
   */
  multiplyGroups(
    a: Matrix,
    b: Matrix,
    starts: Matrix,
    out: Matrix,
    options?: { transposeA?: boolean; transposeB?: boolean; accumulate?: boolean },
  ): void;

  /**
   * losses[r] (matrix [rows, 1]) = -weights[r] * log softmax(logits[r])[targets[firstTarget + r]]; logits are
   * overwritten by the gradient of sum(losses): weights[r] * (softmax(logits[r]) - onehot). A target of -1 gives loss
   * 0 and gradient 0. `weights` [rows, 1].
   */
  crossEntropy(logits: Matrix, targets: Ids, firstTarget: number, weights: Matrix, losses: Matrix): void;

  // -- optimisers
  /**
   * AdamW on whole arrays of equal length, decoupled decay: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
   * w -= rate * (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + epsilon) + decay * w).
   */
  adamW(
    weight: Matrix,
    gradient: Matrix,
    m: Matrix,
    v: Matrix,
    options: {
      rate: number;
      beta1: number;
      beta2: number;
      epsilon: number;
      decay: number;
      step: number;
    },
  ): void;
  /** out[0] += sum of squares of x. */
  sumSquares(x: Matrix, out: Matrix): void;
  /** out [rows, 1] = L2 norm of each row of x. */
  rowNorms(x: Matrix, out: Matrix): void;
  /** out[r] = x[r] * scale[r]; scale [rows, 1]. `out` may be x. */
  scaleRows(x: Matrix, scale: Matrix, out: Matrix): void;
  /**
   * out = beta * out + alpha * z, z standard normal, element i of the matrix (row-major, stride ignored) a function
   * of (seed, i) alone: a counter-based generator, so that noise is remade and never stored. `seed` is below 2^53.
   * All backends draw the same z to within rounding.
   */
  addNormal(out: Matrix, seed: number, alpha: number, beta: number): void;
}
