/**
 * Eight 6-bit scales and eight 6-bit minima in 12 bytes, as Q4_K and Q5_K store them: bytes 0-3 and 4-7 hold scales
 * and minima 0-3 in their lower six bits; bytes 8-11 hold the lower nibbles of scale (low) and minimum (high) 4-7,
 * whose upper two bits stand in the upper bits of bytes 0-3 and 4-7.
 */
export function getScale(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j]! & 63 : (bytes[at + j + 4]! & 15) | ((bytes[at + j - 4]! >> 6) << 4);
}

export function getMin(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j + 4]! & 63 : (bytes[at + j + 4]! >> 4) | ((bytes[at + j]! >> 6) << 4);
}

export function putScales(
  out: Uint8Array,
  at: number,
  scales: readonly number[],
  mins: readonly number[],
): void {
  for (let j = 0; j < 4; j++) {
    out[at + j] = scales[j]! | ((scales[j + 4]! >> 4) << 6);
    out[at + j + 4] = mins[j]! | ((mins[j + 4]! >> 4) << 6);
    out[at + j + 8] = (scales[j + 4]! & 15) | ((mins[j + 4]! & 15) << 4);
  }
}
