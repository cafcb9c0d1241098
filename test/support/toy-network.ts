/** A tiny trainable network by hand: embedding, norm, one hidden matrix, a head. For tests of the training loop. */
import type { Matrix, TrainingArithmetic } from "../../src/backends/training.js";
import type { WindowSource } from "../../src/train/data.js";
import type { Batch, BatchLoss, TrainableNetwork } from "../../src/train/network-contract.js";
import { asMatrix, type ParameterKind, type Trainable } from "../../src/train/optimisers/contract.js";

export const TOY_VOCABULARY = 16;
const WIDTH = 8;
const HIDDEN = 12;

interface ToyParameter extends Trainable {
  readonly gradient: Matrix;
}

export class ToyNetwork implements TrainableNetwork {
  readonly parameters: readonly ToyParameter[];
  readonly #arithmetic: TrainingArithmetic;
  readonly #rows: number;

  constructor(arithmetic: TrainingArithmetic, length: number, sequences: number) {
    this.#arithmetic = arithmetic;
    this.#rows = length * sequences;
    const parameter = (name: string, kind: ParameterKind, rows: number, columns: number): ToyParameter => {
      const make = () => asMatrix(arithmetic.allocate(rows * columns), rows, columns);
      return { name, kind, rows, columns, weight: make(), gradient: make() };
    };
    this.parameters = [
      parameter("embedding", "embedding", TOY_VOCABULARY, WIDTH),
      parameter("norm", "vector", 1, WIDTH),
      parameter("up", "matrix", HIDDEN, WIDTH),
      parameter("down", "matrix", WIDTH, HIDDEN),
    ];
    for (const [seed, { kind, weight }] of this.parameters.entries()) {
      if (kind === "vector") arithmetic.fill(weight, 1);
      else arithmetic.addNormal(weight, seed, 0.3, 0);
    }
  }

  zeroGradients(): void {
    for (const { gradient } of this.parameters) this.#arithmetic.fill(gradient, 0);
  }

  accumulate(batch: Batch, scale: number): Promise<BatchLoss> {
    return this.#pass(batch, scale);
  }

  evaluate(batch: Batch): Promise<BatchLoss> {
    return this.#pass(batch, null);
  }

  dispose(): void {
    for (const { weight, gradient } of this.parameters) {
      weight.values.free();
      gradient.values.free();
    }
  }

  /** logits = E (down (up norm(E[token]))), with gradients times `scale` unless it is null. */
  async #pass({ tokens, targets }: Batch, scale: number | null): Promise<BatchLoss> {
    const a = this.#arithmetic;
    const [embedding, norm, up, down] = this.parameters as [
      ToyParameter,
      ToyParameter,
      ToyParameter,
      ToyParameter,
    ];
    const T = this.#rows;
    const made: Matrix[] = [];
    const zeros = (rows: number, columns: number) => {
      const matrix = asMatrix(a.allocate(rows * columns), rows, columns);
      made.push(matrix);
      return matrix;
    };
    const ids = a.allocateIds(T);
    const wanted = a.allocateIds(T);
    await ids.write(tokens);
    await wanted.write(targets);
    const [x, n, h, y] = [zeros(T, WIDTH), zeros(T, WIDTH), zeros(T, HIDDEN), zeros(T, WIDTH)];
    const [logits, weights, losses] = [zeros(T, TOY_VOCABULARY), zeros(T, 1), zeros(T, 1)];
    a.embed(ids, embedding.weight, 1, x);
    a.rmsNorm(x, norm.weight, WIDTH, 1e-5, n);
    a.multiply(n, up.weight, h, { transposeB: true });
    a.multiply(h, down.weight, y, { transposeB: true });
    a.multiply(y, embedding.weight, logits, { transposeB: true });
    a.fill(weights, scale ?? 1);
    a.crossEntropy(logits, wanted, 0, weights, losses);
    if (scale !== null) {
      const [dY, dH, dN, dX] = [zeros(T, WIDTH), zeros(T, HIDDEN), zeros(T, WIDTH), zeros(T, WIDTH)];
      a.multiply(logits, embedding.weight, dY);
      a.multiply(logits, y, embedding.gradient, { transposeA: true, accumulate: true });
      a.multiply(dY, down.weight, dH);
      a.multiply(dY, h, down.gradient, { transposeA: true, accumulate: true });
      a.multiply(dH, up.weight, dN);
      a.multiply(dH, n, up.gradient, { transposeA: true, accumulate: true });
      a.rmsNormBackward(x, norm.weight, WIDTH, 1e-5, dN, dX, norm.gradient);
      a.embedBackward(ids, dX, 1, embedding.gradient);
    }
    const found = await losses.values.read();
    for (const { values } of made) values.free();
    ids.free();
    wanted.free();
    const asked = targets.reduce((sum, target) => sum + (target >= 0 ? 1 : 0), 0);
    let loss = 0;
    for (const value of found) loss += value;
    return { loss: loss / (scale ?? 1), weight: asked };
  }
}

/** Windows of a walk in which every token's successor is fixed, but for the first, which is any. */
export function toyWindows(windowLength: number, numWindows = Number.POSITIVE_INFINITY): WindowSource {
  return {
    windowLength,
    numWindows,
    window(index) {
      const tokens = new Int32Array(windowLength);
      tokens[0] = (index * 7) % TOY_VOCABULARY;
      for (let i = 1; i < windowLength; i++) tokens[i] = successor(tokens[i - 1]!);
      return { tokens, targets: tokens.map(successor), weights: null };
    },
  };
}

const successor = (token: number): number => (token * 5 + 3) % TOY_VOCABULARY;
