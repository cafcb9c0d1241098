/**
 * The order of rows in matrices of queries and keys. The transformers library keeps the two elements of a rotated pair
 * half a head apart; GGUF files of the llama architecture keep them side by side.
 */

/** Row of a GGUF matrix that is row `row` of the transformers library's, for heads of `headWidth` rows. */
export function interleavedRow(row: number, headWidth: number): number {
  const half = headWidth / 2;
  const within = row % headWidth;
  return row - within + 2 * (within % half) + Math.floor(within / half);
}

/** Rows in GGUF's order from rows in the transformers library's; a copy. */
export function interleaveRows(values: Float32Array, columns: number, headWidth: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row * columns < values.length; row++) {
    out.set(values.subarray(row * columns, (row + 1) * columns), interleavedRow(row, headWidth) * columns);
  }
  return out;
}

/** Rows in the transformers library's order from rows in GGUF's; a copy. */
export function halveRows(values: Float32Array, columns: number, headWidth: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row * columns < values.length; row++) {
    const from = interleavedRow(row, headWidth) * columns;
    out.set(values.subarray(from, from + columns), row * columns);
  }
  return out;
}
