/**
 * APOLLO: the gradient itself, scaled channel by channel to the length that Adam's update would have (Zhu et al.,
 * "APOLLO: SGD-like Memory, AdamW-level Performance", arXiv 2412.05270). Those lengths are estimated in a space of
 * low rank r that a random projection leads to, so that Adam's moments are kept of r numbers a channel instead of all;
 * the projection is remade from a seed. APOLLO-Mini is rank 1 with one scale for the whole matrix.
 *
 * Channels run along a matrix's longer side. Embeddings, the output head and vectors take AdamW. State of a matrix:
 * 2 r numbers a channel, and the length of its last update for the norm-growth limiter (Chen et al., "Fira",
 * arXiv 2410.01623).
 */
import type { Matrix, TrainingArithmetic, Values } from "../../backends/training.js";
import { deriveSeed } from "../seeds.js";
import { ADAMW_DEFAULTS, AdamW, type AdamWOptions } from "./adamw.js";
import {
  asMatrix,
  type GradientOptimiser,
  gradientOf,
  type Moment,
  type StateArray,
  type Trainable,
} from "./contract.js";

export interface ApolloOptions extends AdamWOptions {
  /** Default: a quarter of the shorter side; 1 for APOLLO-Mini. */
  readonly rank?: number;
  /** Factor on all updates of matrices. Default 1; sqrt(128) for APOLLO-Mini. */
  readonly scale?: number;
  /** Steps after which the projection is another. Default 200. */
  readonly refresh?: number;
  /** Of the projections. Default 0. */
  readonly seed?: number;
}

export const APOLLO_DEFAULTS = { scale: 1, refresh: 200, seed: 0 } as const;
export const APOLLO_MINI_DEFAULTS = { rank: 1, scale: Math.sqrt(128), refresh: 200, seed: 0 } as const;

/** How much longer than the last one an update may be. */
const GROWTH = 1.01;

/** Added to lengths that are divided by. */
const TINY = 1e-8;

type Granularity = "channel" | "tensor";

interface Projected {
  readonly parameter: Trainable;
  readonly index: number;
  readonly channels: number;
  readonly rank: number;
  readonly m: Matrix;
  readonly v: Matrix;
  /** Where this matrix's lengths lie among all: 2 a channel. */
  readonly lengthsAt: number;
}

export class Apollo implements GradientOptimiser {
  readonly name: "apollo" | "apollo-mini";
  readonly needs = "gradients";
  readonly state: readonly StateArray[];
  readonly #arithmetic: TrainingArithmetic;
  readonly #granularity: Granularity;
  readonly #options: Required<Omit<ApolloOptions, "rank">>;
  readonly #projected: readonly Projected[];
  readonly #others: AdamW;
  /** Length of each matrix's last update; 0 before the first. */
  readonly #lastLengths: Values;
  readonly #scratch: Scratch;

  constructor(
    granularity: Granularity,
    arithmetic: TrainingArithmetic,
    parameters: readonly Trainable[],
    options: ApolloOptions = {},
  ) {
    const { rank, scale, refresh, seed, ...adam } = options;
    const defaults = granularity === "tensor" ? APOLLO_MINI_DEFAULTS : APOLLO_DEFAULTS;
    this.name = granularity === "tensor" ? "apollo-mini" : "apollo";
    this.#arithmetic = arithmetic;
    this.#granularity = granularity;
    this.#options = {
      ...ADAMW_DEFAULTS,
      ...adam,
      scale: scale ?? defaults.scale,
      refresh: refresh ?? defaults.refresh,
      seed: seed ?? defaults.seed,
    };
    let lengthsAt = 0;
    this.#projected = parameters
      .filter(({ kind }) => kind === "matrix")
      .map((parameter, index) => {
        const channels = Math.max(parameter.rows, parameter.columns);
        const side = Math.min(parameter.rows, parameter.columns);
        const wanted = rank ?? (granularity === "tensor" ? 1 : Math.max(1, Math.floor(side / 4)));
        const of = Math.min(wanted, side);
        const zeros = () => asMatrix(arithmetic.allocate(channels * of), channels, of);
        const at = lengthsAt;
        lengthsAt += 2 * channels;
        return { parameter, index, channels, rank: of, m: zeros(), v: zeros(), lengthsAt: at };
      });
    this.#others = new AdamW(
      arithmetic,
      parameters.filter(({ kind }) => kind !== "matrix"),
      adam,
    );
    this.#lastLengths = arithmetic.allocate(Math.max(1, this.#projected.length));
    this.#scratch = createScratch(arithmetic, this.#projected, lengthsAt);
    this.state = [
      ...this.#projected.flatMap(({ parameter, m, v }) => [
        { name: `${parameter.name}.m`, values: m.values },
        { name: `${parameter.name}.v`, values: v.values },
      ]),
      { name: "lengths", values: this.#lastLengths },
      ...this.#others.state,
    ];
  }

  /** Waits twice for the machine: for the channels' lengths, and for those of the updates. Overwrites gradients. */
  async step(moment: Moment): Promise<void> {
    const { lengths } = this.#scratch;
    for (const projected of this.#projected) this.#project(projected, moment.step);
    const found = await lengths.read();
    const factors = this.#projected.map((projected) => this.#factors(projected, found));
    await lengths.write(factors.flat());
    for (const projected of this.#projected) this.#scaleGradient(projected);
    const limits = await this.#limit();
    for (const [i, { parameter }] of this.#projected.entries()) {
      const distance = moment.rate * this.#options.scale * limits[i]!;
      const keep = 1 - moment.rate * this.#options.decay;
      this.#arithmetic.addScaled(gradientOf(parameter), parameter.weight, -distance, keep);
    }
    await this.#others.step(moment);
  }

  dispose(): void {
    for (const { m, v } of this.#projected) {
      m.values.free();
      v.values.free();
    }
    this.#lastLengths.free();
    this.#others.dispose();
    for (const values of Object.values(this.#scratch)) values.free();
  }

  /** Records, for each channel, the length of its projected gradient and of Adam's update of that. */
  #project({ parameter, index, channels, rank, m, v, lengthsAt }: Projected, step: number): void {
    const arithmetic = this.#arithmetic;
    const { scale: _, refresh, seed, ...adam } = this.#options;
    const side = Math.min(parameter.rows, parameter.columns);
    const projection = asMatrix(this.#scratch.projection, side, rank);
    const epoch = Math.floor((step - 1) / refresh);
    arithmetic.addNormal(projection, deriveSeed(seed, index, epoch), 1 / Math.sqrt(rank), 0);
    const low = asMatrix(this.#scratch.low, channels, rank);
    const wide = parameter.rows < parameter.columns;
    arithmetic.multiply(gradientOf(parameter), projection, low, { transposeA: wide });
    const update = asMatrix(this.#scratch.update, channels, rank);
    arithmetic.fill(update, 0);
    arithmetic.adamW(update, low, m, v, { ...adam, decay: 0, rate: 1, step });
    const lengths = this.#scratch.lengths;
    arithmetic.rowNorms(low, asMatrix(lengths, channels, 1, lengthsAt));
    arithmetic.rowNorms(update, asMatrix(lengths, channels, 1, lengthsAt + channels));
  }

  /** What each channel is to be multiplied by, and as many unused numbers. */
  #factors({ channels, lengthsAt }: Projected, lengths: ArrayLike<number>): number[] {
    const at = (i: number) => lengths[lengthsAt + i]!;
    if (this.#granularity === "channel") {
      return Array.from({ length: 2 * channels }, (_, c) =>
        c < channels ? at(channels + c) / (at(c) + TINY) : 0,
      );
    }
    let [gradient, update] = [0, 0];
    for (let c = 0; c < channels; c++) {
      gradient += at(c) ** 2;
      update += at(channels + c) ** 2;
    }
    return new Array<number>(2 * channels).fill(Math.sqrt(update) / (Math.sqrt(gradient) + TINY));
  }

  /** Multiplies the gradient's channels by the factors that `lengths` now holds. */
  #scaleGradient({ parameter, channels, lengthsAt }: Projected): void {
    const arithmetic = this.#arithmetic;
    const gradient = gradientOf(parameter);
    const { rows, columns } = parameter;
    const factors = this.#scratch.lengths;
    if (rows >= columns) {
      arithmetic.scaleRows(gradient, asMatrix(factors, rows, 1, lengthsAt), gradient);
      return;
    }
    // Channels are columns: the factors repeated row by row, then multiplied element by element.
    const repeated = asMatrix(this.#scratch.repeated, rows, columns);
    arithmetic.fill(repeated, 0);
    arithmetic.addRow(asMatrix(factors, 1, channels, lengthsAt), repeated);
    const elements = { ...gradient, rows: rows * columns, columns: 1, stride: 1 };
    arithmetic.scaleRows(elements, asMatrix(this.#scratch.repeated, rows * columns, 1), elements);
  }

  /** By matrix, the factor that keeps its update from growing faster than GROWTH; remembers the lengths. */
  async #limit(): Promise<number[]> {
    const arithmetic = this.#arithmetic;
    const { squares } = this.#scratch;
    arithmetic.fill(asMatrix(squares, 1, squares.length), 0);
    for (const [i, { parameter }] of this.#projected.entries()) {
      arithmetic.sumSquares(gradientOf(parameter), asMatrix(squares, 1, 1, i));
    }
    const now = await squares.read();
    const last = await this.#lastLengths.read();
    const limits = this.#projected.map((_, i) => {
      const length = Math.sqrt(now[i]!);
      const most = GROWTH * last[i]!;
      return most > 0 && length > most ? most / length : 1;
    });
    await this.#lastLengths.write(limits.map((limit, i) => limit * Math.sqrt(now[i]!)));
    return limits;
  }
}

interface Scratch {
  readonly projection: Values;
  readonly low: Values;
  readonly update: Values;
  readonly repeated: Values;
  readonly lengths: Values;
  readonly squares: Values;
}

function createScratch(
  arithmetic: TrainingArithmetic,
  projected: readonly Projected[],
  numLengths: number,
): Scratch {
  const most = (of: (matrix: Projected) => number) => Math.max(1, ...projected.map(of));
  const low = most(({ channels, rank }) => channels * rank);
  const isWide = ({ parameter: { rows, columns } }: Projected) => rows < columns;
  return {
    projection: arithmetic.allocate(
      most(({ parameter: { rows, columns }, rank }) => Math.min(rows, columns) * rank),
    ),
    low: arithmetic.allocate(low),
    update: arithmetic.allocate(low),
    repeated: arithmetic.allocate(
      most((matrix) => (isWide(matrix) ? matrix.parameter.rows * matrix.parameter.columns : 1)),
    ),
    lengths: arithmetic.allocate(Math.max(1, numLengths)),
    squares: arithmetic.allocate(Math.max(1, projected.length)),
  };
}
