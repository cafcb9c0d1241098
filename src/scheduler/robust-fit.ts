/**
 * Least squares for times: coefficients cannot be negative (more work never takes less time), errors count relative to
 * what they are errors of, and outliers (a step that the system interrupted) pull no harder than Huber's loss lets them.
 */

export interface Observation {
  /** As many numbers as there are coefficients, none negative. */
  readonly features: readonly number[];
  /** Above 0. */
  readonly value: number;
  readonly weight: number;
}

/** Rounds of reweighting, each from the fit before. */
const ROUNDS = 4;
/** Most sweeps over the coefficients within a round. */
const SWEEPS = 200;
/** In robust standard deviations: errors beyond grow linearly in the loss, not as squares. */
const HUBER = 1.345;
/** Keeps coefficients that nothing was observed of at `start`; too little to be felt by any other. */
const RIDGE = 1e-6;

/**
 * Coefficients b >= 0 that minimise the robust sum of weight x ((features . b - value) / (features . b))². Where the
 * observations say nothing of a coefficient it stays as in `start`. Pure.
 */
export function robustFit(observations: readonly Observation[], start: readonly number[]): number[] {
  let fit = [...start];
  if (observations.length === 0) return fit;
  let scales = observations.map(({ value }) => value);
  let robust = observations.map(() => 1);
  for (let round = 0; round < ROUNDS; round++) {
    const weights = observations.map(({ weight }, i) => (weight * robust[i]!) / scales[i]! ** 2);
    fit = nonNegative(observations, weights, fit);
    const predicted = observations.map(({ features }) => dot(features, fit));
    scales = observations.map(({ value }, i) => Math.max(predicted[i]!, value / 16));
    const errors = observations.map(({ value }, i) => Math.abs(value - predicted[i]!) / scales[i]!);
    const limit = HUBER * Math.max(1.4826 * median(errors), 1e-6);
    robust = errors.map((error) => (error <= limit ? 1 : limit / error));
  }
  return fit;
}

export function dot(a: readonly number[], b: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** NaN of no values. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The least value that a share `q` of all do not exceed; NaN of no values. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

/** Weighted least squares with b >= 0: descent along one coefficient after the other. */
function nonNegative(
  observations: readonly Observation[],
  weights: readonly number[],
  start: readonly number[],
): number[] {
  const size = start.length;
  const gram = Array.from({ length: size }, () => new Array<number>(size).fill(0));
  const target = new Array<number>(size).fill(0);
  for (const [o, { features, value }] of observations.entries()) {
    for (let i = 0; i < size; i++) {
      const weighted = weights[o]! * features[i]!;
      if (weighted === 0) continue;
      target[i]! += weighted * value;
      for (let j = 0; j < size; j++) gram[i]![j]! += weighted * features[j]!;
    }
  }
  for (let i = 0; i < size; i++) {
    const ridge = RIDGE * gram[i]![i]!;
    gram[i]![i]! += ridge;
    target[i]! += ridge * start[i]!;
  }
  const fit = [...start];
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    let moved = 0;
    for (let i = 0; i < size; i++) {
      const curvature = gram[i]![i]!;
      if (curvature === 0) continue;
      const before = fit[i]!;
      fit[i] = Math.max(0, before + (target[i]! - dot(gram[i]!, fit)) / curvature);
      // In units of the error that it makes.
      moved = Math.max(moved, (fit[i]! - before) ** 2 * curvature);
    }
    if (moved < 1e-12) break;
  }
  return fit;
}
