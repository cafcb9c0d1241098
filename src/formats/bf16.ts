/** bfloat16: the upper half of a single. */

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The value of a bfloat16, exactly. */
export function bf16ToF32(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0]!;
}

/** Bits of the bfloat16 nearest to `value` as a single; ties go to even, NaN stays a (quiet) NaN. */
export function f32ToBf16(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  if ((bits & 0x7fff_ffff) > 0x7f80_0000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
