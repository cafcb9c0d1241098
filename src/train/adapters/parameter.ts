import type { Matrix, TrainingArithmetic } from "../../backends/training.js";
import type { Parameter } from "../parameters.js";

/** A trained matrix of an adapter's own, and how to free it. Throws OUT_OF_BUDGET. */
export async function allocateParameter(
  arithmetic: TrainingArithmetic,
  name: string,
  shape: { readonly rows: number; readonly columns: number; readonly gradients: boolean },
  values: Float32Array | null,
): Promise<{ parameter: Parameter; free: () => void }> {
  const { rows, columns } = shape;
  const weight = arithmetic.allocate(rows * columns);
  if (values) await weight.write(values);
  const gradient = shape.gradients ? arithmetic.allocate(rows * columns) : null;
  const whole = (from: typeof weight): Matrix => ({ values: from, at: 0, rows, columns, stride: columns });
  return {
    parameter: {
      name,
      rows,
      columns,
      kind: "matrix",
      weight: whole(weight),
      gradient: gradient && whole(gradient),
      add: 0,
    },
    free() {
      weight.free();
      gradient?.free();
    },
  };
}
