/**
 * The tape: the one language between models and backends.
 *
 * A model writes its operations once; a backend compiles the tape once and then runs it for every step over one
 * ragged batch. The tape holds no numbers that change from step to step: how many tokens, which positions and which
 * pages come with the `Step` (see backends/contract.ts).
 *
 * Shape letters: T tokens of the batch, R rows whose logits are wanted, S rows whose states are wanted, A = T x experts
 * per token, E model width, H query heads, K kv heads, D head width, F feed-forward width, V vocabulary.
 */
import { MillraceError } from "../errors.js";
import type { TensorType } from "../formats/checkpoint.js";

/**
 * What the rows of a buffer stand for: one per token, one per wanted output, one per (token, chosen expert), one per
 * wanted state.
 */
export type RowKind = "tokens" | "outputs" | "routes" | "states";

/** A row-major f32 activation buffer, [rows, width]. */
export interface BufferRef {
  readonly id: number;
  readonly rows: RowKind;
  readonly width: number;
}

/** A run of rows of one stored tensor; columns are the tensor's innermost dimension. */
export interface TensorSlice {
  readonly tensor: string;
  readonly rowStart: number;
  readonly rowCount: number;
}

/** A matrix [experts x rows, columns], possibly gathered from several tensors; `experts` is 1 for dense layers. */
export interface WeightRef {
  readonly id: number;
  readonly slices: readonly TensorSlice[];
  readonly type: TensorType;
  /** Rows of one expert (output width). */
  readonly rows: number;
  /** Input width. */
  readonly columns: number;
  readonly experts: number;
}

/** A small f32 vector (norm weight or bias); `add` is added to every element at load (Gemma norms in safetensors). */
export interface VectorRef {
  readonly id: number;
  readonly slice: TensorSlice;
  readonly type: TensorType;
  readonly width: number;
  readonly add: number;
}

/**
 * A table of rotary angles. Row r holds cos and sin of `position[r] * frequencies[i]`, times `magnitude`.
 * Angles are computed in double precision, so positions of many millions stay exact.
 */
export interface RopeRef {
  readonly id: number;
  /** Radians per position, one per rotated pair; length is rotaryWidth / 2. */
  readonly frequencies: Float64Array;
  /** Factor on cos and sin of TOKEN rows (YaRN and LongRoPE attention scaling). Segment rotations use 1. */
  readonly magnitude: number;
  /** Which elements make a pair: (2i, 2i+1) or (i, i + rotaryWidth/2). */
  readonly style: "interleaved" | "half";
}

/** For every token its chosen experts (ids) and their weights. */
export interface RouteRef {
  readonly id: number;
  readonly experts: number;
  readonly perToken: number;
}

/** One adapter's part in an op: a change of low rank, its factor included. */
export interface LowRankPair {
  /** Number of the adapter, which spans of a step name. */
  readonly adapter: number;
  readonly rank: number;
  /** [rank, input width] */
  readonly down: VectorRef;
  /** [rank, output width] */
  readonly up: VectorRef;
}

/** What the cache must know of one layer. */
export interface KvLayer {
  readonly layer: number;
  readonly numKvHeads: number;
  readonly headWidth: number;
  /** Tokens that a query sees, itself included (sliding window), or null for all. */
  readonly window: number | null;
  /** What its keys are rotated by, as its attention says; absent where they are not. */
  readonly rope?: RopeRef;
  /** Query heads, as its attention says. */
  readonly numHeads?: number;
}

export type Activation = "silu" | "gelu" | "gelu_tanh";

export type Op =
  /** out[t] = scale * weight[token[t]] */
  | { readonly op: "embed"; readonly weight: WeightRef; readonly scale: number; readonly out: BufferRef }
  /**
   * Each run of `width` elements of a row: out = x / sqrt(mean(x^2) + epsilon) * weight (weight absent: 1).
   * `width` is the row's width, or the head width for per-head norms. `out` may be `x`.
   */
  | {
      readonly op: "rmsNorm";
      readonly x: BufferRef;
      readonly weight: VectorRef | null;
      readonly width: number;
      readonly epsilon: number;
      readonly out: BufferRef;
    }
  /** out[r] = W x[r] + bias, or out[r] += that where `accumulate`. */
  | {
      readonly op: "matmul";
      readonly x: BufferRef;
      readonly weight: WeightRef;
      readonly bias: VectorRef | null;
      readonly accumulate: boolean;
      readonly out: BufferRef;
    }
  /**
   * out[r] += the sum over j of (down[j] . x[r]) up[j], with the pair of the adapter that row r's span names; rows
   * whose span names none, or one without a pair here, stay as they are. Every adapter has at most one pair.
   */
  | {
      readonly op: "lowRank";
      readonly x: BufferRef;
      readonly pairs: readonly LowRankPair[];
      readonly out: BufferRef;
    }
  /** Rotates, in place, the first 2 x frequencies.length elements of every head of x at the token's position. */
  | { readonly op: "rope"; readonly x: BufferRef; readonly headWidth: number; readonly rope: RopeRef }
  /** Stores k and v [T, K*D] of this layer in the slots that the step names. k is already rotated. */
  | { readonly op: "append"; readonly k: BufferRef; readonly v: BufferRef; readonly layer: number }
  /**
   * out[t,h] = softmax(cap(scale * q[t,h] . k[s])) v[s] over the stored s of the token's sequence with
   * 0 <= position[s] <= position[t] and, with a window, position[t] - position[s] < window;
   * cap(x) = softcap * tanh(x / softcap) where softcap > 0. Query head h reads kv head floor(h * K / H).
   * For pages with a rotation r >= 0, q is first rotated by row r of the step's segment rotations; without a rope
   * rotations mean nothing. A query that sees no token gives zeros.
   */
  | {
      readonly op: "attention";
      readonly q: BufferRef;
      readonly layer: number;
      readonly numHeads: number;
      readonly scale: number;
      readonly softcap: number;
      readonly window: number | null;
      readonly rope: RopeRef | null;
      readonly out: BufferRef;
    }
  /** out = activation(gate) * up, element by element. `out` may be `gate`. */
  | {
      readonly op: "glu";
      readonly gate: BufferRef;
      readonly up: BufferRef;
      readonly activation: Activation;
      readonly out: BufferRef;
    }
  /** out += x */
  | { readonly op: "add"; readonly x: BufferRef; readonly out: BufferRef }
  /** out[r] = x[outputs[r]], or x[states[r]] where `out` has such rows: keeps only the rows that are wanted. */
  | { readonly op: "select"; readonly x: BufferRef; readonly out: BufferRef }
  /**
   * Takes the `perToken` largest of softmax(logits[t]); weights are those probabilities, scaled to sum 1 where
   * `normalize`. Ties go to the lower expert.
   */
  | {
      readonly op: "route";
      readonly logits: BufferRef;
      readonly normalize: boolean;
      readonly route: RouteRef;
    }
  /**
   * out[t*perToken + j] = W[ids[t,j]] x[row], where row is t for a "tokens" x and t*perToken + j for a "routes" x.
   */
  | {
      readonly op: "matmulExperts";
      readonly x: BufferRef;
      readonly weight: WeightRef;
      readonly route: RouteRef;
      readonly out: BufferRef;
    }
  /** out[t] += sum over j of weights[t,j] * x[t*perToken + j] */
  | { readonly op: "combine"; readonly x: BufferRef; readonly route: RouteRef; readonly out: BufferRef };

export interface Tape {
  readonly ops: readonly Op[];
  readonly buffers: readonly BufferRef[];
  readonly weights: readonly WeightRef[];
  readonly vectors: readonly VectorRef[];
  readonly ropes: readonly RopeRef[];
  readonly routes: readonly RouteRef[];
  /** One per layer, in order. */
  readonly kv: readonly KvLayer[];
  /** Rows "outputs", width V. */
  readonly logits: BufferRef;
  /** Rows "states", width E: what the output matrix would read, for those who want that and no logits; null: none. */
  readonly states: BufferRef | null;
}

/** What a `WeightSource` hands to the builder: where the matrix lies and how it is stored. */
export type WeightSpec = Omit<WeightRef, "id">;
export type VectorSpec = Omit<VectorRef, "id">;

/**
 * Writes a tape. Every method checks shapes and throws BAD_SHAPE with the op and both shapes, so that a wrong
 * checkpoint fails at load with a name and not at run time with noise.
 */
export class TapeBuilder {
  readonly #ops: Op[] = [];
  readonly #buffers: BufferRef[] = [];
  readonly #weights: WeightRef[] = [];
  readonly #vectors: VectorRef[] = [];
  readonly #ropes: RopeRef[] = [];
  readonly #routes: RouteRef[] = [];
  readonly #kv: KvLayer[] = [];

  buffer(width: number, rows: RowKind = "tokens"): BufferRef {
    return push(this.#buffers, { id: this.#buffers.length, rows, width });
  }

  weight(spec: WeightSpec): WeightRef {
    return push(this.#weights, { id: this.#weights.length, ...spec });
  }

  vector(spec: VectorSpec): VectorRef {
    return push(this.#vectors, { id: this.#vectors.length, ...spec });
  }

  rope(spec: Omit<RopeRef, "id">): RopeRef {
    return push(this.#ropes, { id: this.#ropes.length, ...spec });
  }

  embed(weight: WeightRef, options: { scale?: number } = {}): BufferRef {
    const out = this.buffer(weight.columns);
    this.#ops.push({ op: "embed", weight, scale: options.scale ?? 1, out });
    return out;
  }

  /** Norm into a new buffer, or in place where `inPlace`. */
  rmsNorm(
    x: BufferRef,
    weight: VectorRef | null,
    options: { epsilon: number; width?: number; inPlace?: boolean },
  ): BufferRef {
    const width = options.width ?? x.width;
    if (x.width % width !== 0) throw shapeError("rmsNorm", `row of ${x.width}`, `multiple of ${width}`);
    if (weight && weight.width !== width) {
      throw shapeError("rmsNorm", `weight "${weight.slice.tensor}" of ${weight.width}`, `${width}`);
    }
    const out = options.inPlace ? x : this.buffer(x.width, x.rows);
    this.#ops.push({ op: "rmsNorm", x, weight, width, epsilon: options.epsilon, out });
    return out;
  }

  /** W x (+ bias), into a new buffer or added onto `addTo`. */
  matmul(
    x: BufferRef,
    weight: WeightRef,
    options: { bias?: VectorRef | null; addTo?: BufferRef } = {},
  ): BufferRef {
    const bias = options.bias ?? null;
    if (weight.experts !== 1) throw shapeError("matmul", `${weight.experts} experts`, "1");
    if (x.width !== weight.columns) {
      throw shapeError(
        "matmul",
        `input of ${x.width}`,
        `${weight.columns} columns of "${weight.slices[0]?.tensor}"`,
      );
    }
    if (bias && bias.width !== weight.rows) {
      throw shapeError("matmul", `bias "${bias.slice.tensor}" of ${bias.width}`, `${weight.rows}`);
    }
    const out = options.addTo ?? this.buffer(weight.rows, x.rows);
    if (out.width !== weight.rows || out.rows !== x.rows) {
      throw shapeError("matmul", `output [${out.rows}, ${out.width}]`, `[${x.rows}, ${weight.rows}]`);
    }
    this.#ops.push({ op: "matmul", x, weight, bias, accumulate: options.addTo !== undefined, out });
    return out;
  }

  /** Adds the change of each row's adapter onto `addTo`; see the op. */
  lowRank(x: BufferRef, pairs: readonly LowRankPair[], addTo: BufferRef): void {
    for (const { rank, down, up } of pairs) {
      if (x.rows === addTo.rows && down.width === rank * x.width && up.width === rank * addTo.width) continue;
      throw shapeError(
        "lowRank",
        `rank ${rank}, down of ${down.width}, up of ${up.width}`,
        `rank times ${x.width} and ${addTo.width}`,
      );
    }
    this.#ops.push({ op: "lowRank", x, pairs, out: addTo });
  }

  /** Rotates x in place. */
  applyRope(x: BufferRef, headWidth: number, rope: RopeRef): void {
    if (x.width % headWidth !== 0 || rope.frequencies.length * 2 > headWidth) {
      throw shapeError(
        "rope",
        `row of ${x.width}, head of ${headWidth}`,
        `${rope.frequencies.length * 2} rotated`,
      );
    }
    this.#ops.push({ op: "rope", x, headWidth, rope });
  }

  /** Stores this layer's keys and values. Layers must be written in order, each once, before their attention. */
  append(layer: KvLayer, k: BufferRef, v: BufferRef): void {
    const width = layer.numKvHeads * layer.headWidth;
    if (k.width !== width || v.width !== width)
      throw shapeError("append", `k ${k.width}, v ${v.width}`, `${width}`);
    if (layer.layer !== this.#kv.length)
      throw shapeError("append", `layer ${layer.layer}`, `layer ${this.#kv.length}`);
    this.#kv.push(layer);
    this.#ops.push({ op: "append", k, v, layer: layer.layer });
  }

  attention(
    q: BufferRef,
    options: {
      layer: number;
      numHeads: number;
      scale: number;
      softcap?: number;
      rope: RopeRef | null;
    },
  ): BufferRef {
    const kv = this.#kv[options.layer];
    if (!kv)
      throw shapeError("attention", `layer ${options.layer}`, `one of ${this.#kv.length} appended layers`);
    if (q.width !== options.numHeads * kv.headWidth || options.numHeads % kv.numKvHeads !== 0) {
      throw shapeError(
        "attention",
        `q of ${q.width} for ${options.numHeads} heads`,
        `${kv.headWidth} a head and a multiple of ${kv.numKvHeads} kv heads`,
      );
    }
    const { numHeads, rope } = options;
    this.#kv[options.layer] = { ...kv, numHeads, ...(rope ? { rope } : {}) };
    const out = this.buffer(q.width, q.rows);
    this.#ops.push({
      op: "attention",
      q,
      layer: options.layer,
      numHeads: options.numHeads,
      scale: options.scale,
      softcap: options.softcap ?? 0,
      window: kv.window,
      rope: options.rope,
      out,
    });
    return out;
  }

  /** activation(gate) * up, written over `gate`. */
  glu(gate: BufferRef, up: BufferRef, activation: Activation): BufferRef {
    if (gate.width !== up.width || gate.rows !== up.rows)
      throw shapeError("glu", `gate ${gate.width}`, `up ${up.width}`);
    this.#ops.push({ op: "glu", gate, up, activation, out: gate });
    return gate;
  }

  add(x: BufferRef, out: BufferRef): void {
    if (x.width !== out.width || x.rows !== out.rows)
      throw shapeError("add", `row of ${x.width}`, `${out.width}`);
    this.#ops.push({ op: "add", x, out });
  }

  select(x: BufferRef, rows: "outputs" | "states" = "outputs"): BufferRef {
    const out = this.buffer(x.width, rows);
    this.#ops.push({ op: "select", x, out });
    return out;
  }

  route(logits: BufferRef, options: { perToken: number; normalize: boolean }): RouteRef {
    if (options.perToken > logits.width)
      throw shapeError("route", `${options.perToken} per token`, `${logits.width} experts`);
    const route = push(this.#routes, {
      id: this.#routes.length,
      experts: logits.width,
      perToken: options.perToken,
    });
    this.#ops.push({ op: "route", logits, normalize: options.normalize, route });
    return route;
  }

  matmulExperts(x: BufferRef, weight: WeightRef, route: RouteRef): BufferRef {
    if (x.width !== weight.columns || weight.experts !== route.experts) {
      throw shapeError(
        "matmulExperts",
        `input of ${x.width}, ${route.experts} routed experts`,
        `${weight.columns} columns, ${weight.experts} experts of "${weight.slices[0]?.tensor}"`,
      );
    }
    const out = this.buffer(weight.rows, "routes");
    this.#ops.push({ op: "matmulExperts", x, weight, route, out });
    return out;
  }

  /** Adds the weighted experts' outputs onto `addTo`. */
  combine(x: BufferRef, route: RouteRef, addTo: BufferRef): void {
    if (x.width !== addTo.width) throw shapeError("combine", `row of ${x.width}`, `${addTo.width}`);
    this.#ops.push({ op: "combine", x, route, out: addTo });
  }

  finish(logits: BufferRef, states: BufferRef | null = null): Tape {
    if (logits.rows !== "outputs") throw shapeError("finish", `logits per ${logits.rows}`, `"outputs"`);
    if (states && states.rows !== "states")
      throw shapeError("finish", `states per ${states.rows}`, `"states"`);
    return {
      ops: this.#ops,
      buffers: this.#buffers,
      weights: this.#weights,
      vectors: this.#vectors,
      ropes: this.#ropes,
      routes: this.#routes,
      kv: this.#kv,
      logits,
      states,
    };
  }
}

function push<T>(list: T[], item: T): T {
  list.push(item);
  return item;
}

function shapeError(op: string, got: string, expected: string): MillraceError {
  return new MillraceError("BAD_SHAPE", `Operation ${op}: got ${got}, expected ${expected}.`, {
    op,
    got,
    expected,
  });
}
