/** IEEE 754 half precision: 1 sign, 5 exponent, 10 mantissa bits. */

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** Every half as a single, by its 16 bits: 256 KiB that make decoding one load. */
const SINGLES = Float32Array.from({ length: 2 ** 16 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
});

/** The value of a half, exactly. */
export function f16ToF32(bits: number): number {
  return SINGLES[bits & 0xffff]!;
}

/**
 * Bits of the half nearest to `value` as a single; ties go to even, overflow to infinity, NaN stays a (quiet) NaN,
 * subnormals are kept.
 */
export function f32ToF16(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fff_ffff;
  if (magnitude > 0x7f80_0000) return sign | 0x7e00;
  // 65520 lies halfway between the largest half, 65504, and what would be the next.
  if (magnitude >= 0x477f_f000) return sign | 0x7c00;
  // From 2^-14 on: rebias the exponent from 127 to 15 and drop 13 bits. A carry runs into the exponent as it should.
  if (magnitude >= 0x3880_0000) return sign | roundShift(magnitude - (112 << 23), 13);
  // Half of the least subnormal, 2^-25, and all below round to zero.
  if (magnitude <= 0x3300_0000) return sign;
  const mantissa = (magnitude & 0x7f_ffff) | 0x80_0000;
  return sign | roundShift(mantissa, 126 - (magnitude >>> 23));
}

/** bits / 2^shift, rounded to nearest, ties to even. */
function roundShift(bits: number, shift: number): number {
  const quotient = bits >>> shift;
  const rest = bits & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return quotient + (rest > half || (rest === half && (quotient & 1) === 1) ? 1 : 0);
}
