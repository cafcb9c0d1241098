import type { Checkpoint } from "../formats/checkpoint.js";
import type { LowRank, LowRanks } from "../models/low-rank.js";
import { type ChangedTensors, readTensor } from "./export.js";

/**
 * The values of a checkpoint's matrices with an adapter merged into them, for `exportGguf` and `exportSafetensors`.
 * Where they are written in a quantised type, they are rounded anew: small changes may be lost in coarse types.
 */
export function mergeAdapter(checkpoint: Checkpoint, adapter: LowRanks): ChangedTensors {
  return new Map(
    Array.from(adapter, ([tensor, lowRank]) => [
      tensor,
      async () => addLowRank(await readTensor(checkpoint, checkpoint.tensors.get(tensor)!), lowRank),
    ]),
  );
}

/** values [rows, columns] += scale * up * down, in place. */
function addLowRank(values: Float32Array, { rank, rows, columns, down, up, scale }: LowRank): Float32Array {
  const change = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    change.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = scale * up[row * rank + r]!;
      if (factor === 0) continue;
      for (let c = 0; c < columns; c++) change[c]! += factor * down[r * columns + c]!;
    }
    for (let c = 0; c < columns; c++) values[row * columns + c]! += change[c]!;
  }
  return values;
}
