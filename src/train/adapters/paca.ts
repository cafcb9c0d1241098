/**
 * PaCA (Woo et al., 2503.01905): of every matrix, `rank` columns drawn at random train and the others stay. What trains
 * here is the change of those columns, P [rows, rank], so that the frozen matrix may stay quantised:
 * y = W x + P x[columns]. It costs one small product forward and two backward, where LoRA has two and four.
 */
import type { Matrix } from "../../backends/training.js";
import { createRandom } from "../../sampling/random.js";
import { deriveSeed } from "../seeds.js";
import { type CreateAdapter, columnsOf, rowsOf } from "./contract.js";
import { allocateParameter } from "./parameter.js";

export const createPaca: CreateAdapter = async (arithmetic, target, settings) => {
  const { tensor, rows, columns } = target;
  const { rank, gradients } = settings;
  const chosen = chooseColumns(columns, rank, deriveSeed(settings.seed, tensor));
  const { parameter, free } = await allocateParameter(
    arithmetic,
    `${tensor}/paca`,
    { rows, columns: rank, gradients },
    null,
  );
  /** The chosen columns of x, side by side. */
  const gather = (x: Matrix, into: Matrix): void => {
    chosen.forEach((column, i) => {
      arithmetic.copy(columnsOf(x, column, 1), columnsOf(into, i, 1));
    });
  };
  return {
    parameters: [parameter],
    part(rowStart, rowCount) {
      const change = rowsOf(parameter.weight, rowStart, rowCount);
      return {
        parameters: [parameter],
        scratchWidth: rank,
        forward(x, out, scratch) {
          gather(x, scratch!);
          arithmetic.multiply(scratch!, change, out, { transposeB: true, accumulate: true });
        },
        backward(x, dOut, dX, scratch) {
          if (parameter.gradient) {
            gather(x, scratch!);
            const dChange = rowsOf(parameter.gradient, rowStart, rowCount);
            arithmetic.multiply(dOut, scratch!, dChange, { transposeA: true, accumulate: true });
          }
          if (!dX) return;
          arithmetic.multiply(dOut, change, scratch!);
          chosen.forEach((column, i) => {
            arithmetic.addScaled(columnsOf(scratch!, i, 1), columnsOf(dX, column, 1), 1, 1);
          });
        },
      };
    },
    lowRank(weights) {
      const down = new Float32Array(rank * columns);
      chosen.forEach((column, i) => {
        down[i * columns + column] = 1;
      });
      return { rank, rows, columns, down, up: weights.get(parameter.name)!, scale: 1 };
    },
    free,
  };
};

/** `count` different columns of `columns`, ascending (the first of a shuffle). */
function chooseColumns(columns: number, count: number, seed: number): number[] {
  const random = createRandom(seed);
  const all = Array.from({ length: columns }, (_, column) => column);
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(random.next() * (columns - i));
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  return all.slice(0, count).sort((a, b) => a - b);
}
