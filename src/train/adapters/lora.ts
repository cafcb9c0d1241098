/**
 * LoRA (Hu et al., 2106.09685): y = W x + alpha / rank * B (A x). A [rank, columns] starts normal, B [rows, rank] at
 * zero, so that the model starts as it was.
 */
import type { Matrix } from "../../backends/training.js";
import { createRandom } from "../../sampling/random.js";
import { fillNormal } from "../normal.js";
import { deriveSeed } from "../seeds.js";
import { type AdaptedTensor, type CreateAdapter, columnsOf, rowsOf } from "./contract.js";
import { allocateParameter } from "./parameter.js";

export const createLora: CreateAdapter = async (arithmetic, target, settings) => {
  const { tensor, rows, columns } = target;
  const { rank, gradients } = settings;
  const scale = settings.alpha / rank;
  const random = createRandom(deriveSeed(settings.seed, tensor));
  const start = fillNormal(new Float32Array(rank * columns), random, 1 / Math.sqrt(columns));
  const a = await allocateParameter(
    arithmetic,
    `${tensor}/lora_A`,
    { rows: rank, columns, gradients },
    start,
  );
  const b = await allocateParameter(arithmetic, `${tensor}/lora_B`, { rows, columns: rank, gradients }, null);
  const down = a.parameter.weight;
  const parameters = [a.parameter, b.parameter];

  const adapted: AdaptedTensor = {
    parameters,
    part(rowStart, rowCount) {
      const up = rowsOf(b.parameter.weight, rowStart, rowCount);
      /** A x into the scratch memory's first half. */
      const project = (x: Matrix, scratch: Matrix): Matrix => {
        const projected = columnsOf(scratch, 0, rank);
        arithmetic.multiply(x, down, projected, { transposeB: true });
        return projected;
      };
      return {
        parameters,
        scratchWidth: 2 * rank,
        forward(x, out, scratch) {
          const projected = project(x, scratch!);
          arithmetic.multiply(projected, up, out, { transposeB: true, alpha: scale, accumulate: true });
        },
        backward(x, dOut, dX, scratch) {
          const dProjected = columnsOf(scratch!, rank, rank);
          arithmetic.multiply(dOut, up, dProjected, { alpha: scale });
          if (dX) arithmetic.multiply(dProjected, down, dX, { accumulate: true });
          if (!a.parameter.gradient || !b.parameter.gradient) return;
          const projected = project(x, scratch!);
          const dUp = rowsOf(b.parameter.gradient, rowStart, rowCount);
          arithmetic.multiply(dOut, projected, dUp, { transposeA: true, alpha: scale, accumulate: true });
          arithmetic.multiply(dProjected, x, a.parameter.gradient, { transposeA: true, accumulate: true });
        },
      };
    },
    lowRank: (weights) => ({
      rank,
      rows,
      columns,
      down: weights.get(a.parameter.name)!,
      up: weights.get(b.parameter.name)!,
      scale,
    }),
    free() {
      a.free();
      b.free();
    },
  };
  return adapted;
};
