/** The noise of tempered mass (`Tempered` of contract.ts), which is the same on every backend, to the bit. */

/** Noise comes as quantiles of the Gumbel(0, 1) distribution, equally probable. */
export const GUMBEL_QUANTILES = 1024;

/** The quantiles, f32 [GUMBEL_QUANTILES]. */
export const gumbelQuantiles = (): Float32Array =>
  Float32Array.from(
    { length: GUMBEL_QUANTILES },
    (_, i) => -Math.log(-Math.log((i + 0.5) / GUMBEL_QUANTILES)),
  );

/** Which quantile the noise between a query head and a key of a lane is. */
export function gumbelIndex(
  seed: number,
  lane: number,
  queryHead: number,
  queryPosition: number,
  keyPosition: number,
): number {
  return mix(mix(mix(mix(seed, lane), queryHead), queryPosition), keyPosition) >>> 22;
}

/** One round of a hash in which every bit of the result depends on every bit given. */
function mix(hash: number, value: number): number {
  let mixed = Math.imul(hash ^ value, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
  return mixed ^ (mixed >>> 13);
}
