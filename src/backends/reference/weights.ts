import { MillraceError } from "../../errors.js";
import { rowBytes } from "../../formats/blocks/contract.js";
import { blockFormat } from "../../formats/blocks/index.js";
import type { Checkpoint, TensorType } from "../../formats/checkpoint.js";
import type { Tape, TensorSlice } from "../../tape/tape.js";
import type { LoadedWeights, LoadProgress } from "../contract.js";
import type { Matrix } from "./state.js";

/** Bytes of the tape's weights and vectors once decoded to f32. */
export const decodedBytes = (tape: Tape): number =>
  4 *
  (tape.weights.reduce((sum, { experts, rows, columns }) => sum + experts * rows * columns, 0) +
    tape.vectors.reduce((sum, { width }) => sum + width, 0));

/** Every weight and vector of a tape, decoded to f32, by id. */
export class ReferenceWeights implements LoadedWeights {
  constructor(
    readonly matrices: Matrix[],
    readonly vectors: Float32Array[],
    readonly byteLength: number,
  ) {}

  dispose(): void {
    this.matrices.length = 0;
    this.vectors.length = 0;
  }
}

/** Reads and decodes slice by slice. Throws as `Checkpoint.read` does, and BAD_SHAPE for slices that do not add up. */
export async function loadWeights(
  tape: Tape,
  checkpoint: Checkpoint,
  onProgress?: (progress: LoadProgress) => void,
): Promise<ReferenceWeights> {
  const stored = (slices: readonly TensorSlice[], type: TensorType, columns: number) =>
    slices.reduce((sum, { rowCount }) => sum + rowCount, 0) * rowBytes(type, columns);
  const totalBytes =
    tape.weights.reduce((sum, { slices, type, columns }) => sum + stored(slices, type, columns), 0) +
    tape.vectors.reduce((sum, { slice, type, width }) => sum + stored([slice], type, width), 0);
  let loadedBytes = 0;
  const decode = async (
    slices: readonly TensorSlice[],
    type: TensorType,
    rows: number,
    columns: number,
  ): Promise<Float32Array> => {
    const out = new Float32Array(rows * columns);
    const bytesPerRow = rowBytes(type, columns);
    let row = 0;
    for (const { tensor, rowStart, rowCount } of slices) {
      if (row + rowCount > rows) break;
      const bytes = new Uint8Array(rowCount * bytesPerRow);
      await checkpoint.read(tensor, rowStart * bytesPerRow, bytes);
      blockFormat(type).decode(bytes, out.subarray(row * columns, (row + rowCount) * columns));
      row += rowCount;
      loadedBytes += bytes.length;
      onProgress?.({ loadedBytes, totalBytes });
    }
    if (row !== rows) {
      const names = slices.map(({ tensor, rowCount }) => `${rowCount} of "${tensor}"`).join(", ");
      throw new MillraceError("BAD_SHAPE", `A weight of ${rows} rows is made of ${names}.`, { rows });
    }
    return out;
  };

  const matrices: Matrix[] = [];
  for (const { slices, type, rows, columns, experts } of tape.weights) {
    matrices.push({ data: await decode(slices, type, experts * rows, columns), rows, columns });
  }
  const vectors: Float32Array[] = [];
  for (const { slice, type, width, add } of tape.vectors) {
    vectors.push((await decode([slice], type, 1, width)).map((x) => x + add));
  }
  return new ReferenceWeights(matrices, vectors, decodedBytes(tape));
}
