/**
 * The searches behind `encode`: scales (and minima) for which rounding to a grid loses least, by the sum of squared
 * errors. Every search tries a few divisions of the range, rounds, and solves for the best scale of that rounding.
 */

/** The levels that one stored number can name. */
export interface Grid {
  /** The level furthest from zero; the largest value of a block is laid near it. */
  readonly extreme: number;
  /** The furthest level of the other sign. */
  readonly opposite: number;
  /** By how much the place of the largest value is varied, in levels. */
  readonly step: number;
  /** The level nearest to `x`. */
  readonly round: (x: number) => number;
}

const STEPS = 4;

/** All integers from `low` (negative) to `high`. */
export function integers(low: number, high: number): Grid {
  return {
    extreme: low,
    opposite: high,
    step: 0.2,
    round: (x) => Math.max(low, Math.min(high, Math.floor(x + 0.5))),
  };
}

/** The scale d (of either sign) for which d * round(x / d) comes nearest to x; 0 for a block of zeros. */
export function fitScale(values: Float32Array, from: number, count: number, grid: Grid): number {
  let largest = 0;
  for (let i = from; i < from + count; i++) {
    if (Math.abs(values[i]!) > Math.abs(largest)) largest = values[i]!;
  }
  if (largest === 0) return 0;
  let best = 0;
  let bestGain = 0;
  const attempt = (inverse: number): void => {
    let xq = 0;
    let qq = 0;
    for (let i = from; i < from + count; i++) {
      const q = grid.round(values[i]! * inverse);
      xq += values[i]! * q;
      qq += q * q;
    }
    // With the best d = xq / qq the squared error is the sum of x^2 less xq^2 / qq.
    if (qq > 0 && xq * xq > bestGain * qq) {
      bestGain = (xq * xq) / qq;
      best = xq / qq;
    }
  };
  for (let step = -STEPS; step <= STEPS; step++) attempt((grid.extreme + step * grid.step) / largest);
  attempt(grid.opposite / largest);
  if (best !== 0) attempt(1 / best);
  return best;
}

export interface Affine {
  readonly scale: number;
  readonly min: number;
}

/**
 * scale >= 0 and min for which scale * q + min, q from 0 to `top`, comes nearest; `min` at most 0 where
 * `minAtMostZero`, since the k-quants store its negative without a sign.
 */
export function fitAffine(
  values: Float32Array,
  from: number,
  count: number,
  top: number,
  minAtMostZero: boolean,
): Affine {
  let low = minAtMostZero ? 0 : Infinity;
  let high = minAtMostZero ? 0 : -Infinity;
  let sumX = 0;
  for (let i = from; i < from + count; i++) {
    low = Math.min(low, values[i]!);
    high = Math.max(high, values[i]!);
    sumX += values[i]!;
  }
  if (!(high > low)) return { scale: 0, min: low };
  let best: Affine = { scale: (high - low) / top, min: low };
  let bestError = Infinity;
  for (let step = -STEPS; step <= STEPS; step++) {
    const inverse = (top + step * 0.2) / (high - low);
    let sumQ = 0;
    let sumQQ = 0;
    let sumXQ = 0;
    for (let i = from; i < from + count; i++) {
      const q = Math.min(top, Math.floor((values[i]! - low) * inverse + 0.5));
      sumQ += q;
      sumQQ += q * q;
      sumXQ += values[i]! * q;
    }
    const determinant = count * sumQQ - sumQ * sumQ;
    if (determinant <= 0) continue;
    let scale = (count * sumXQ - sumQ * sumX) / determinant;
    let min = (sumQQ * sumX - sumQ * sumXQ) / determinant;
    if (minAtMostZero && min > 0) {
      min = 0;
      scale = sumXQ / sumQQ;
    }
    // The sum of x^2 is left out: it is the same for all attempts.
    const error = scale * (scale * sumQQ - 2 * sumXQ + 2 * min * sumQ) + min * (count * min - 2 * sumX);
    if (scale > 0 && error < bestError) {
      bestError = error;
      best = { scale, min };
    }
  }
  return best;
}

/** q from 0 to `top` for which scale * q + min is nearest to x. */
export function quantizeAffine(x: number, scale: number, min: number, top: number): number {
  return scale === 0 ? 0 : Math.max(0, Math.min(top, Math.floor((x - min) / scale + 0.5)));
}

/** The integers next to `guess` from `low` to `high`. */
function neighbours(guess: number, high: number, low = 0): number[] {
  const centre = Math.max(low, Math.min(high, Math.round(guess)));
  return [centre, centre - 1, centre + 1].filter((candidate) => candidate >= low && candidate <= high);
}

/** Squared error of one sub-block stored with `scale` on `grid`. */
function scaleError(values: Float32Array, from: number, count: number, scale: number, grid: Grid): number {
  const inverse = scale === 0 ? 0 : 1 / scale;
  let sum = 0;
  for (let i = from; i < from + count; i++) {
    const error = values[i]! - scale * grid.round(values[i]! * inverse);
    sum += error * error;
  }
  return sum;
}

function affineError(
  values: Float32Array,
  from: number,
  count: number,
  scale: number,
  min: number,
  top: number,
): number {
  const inverse = scale === 0 ? 0 : 1 / scale;
  let sum = 0;
  for (let i = from; i < from + count; i++) {
    const x = values[i]! - min;
    const error = x - scale * Math.max(0, Math.min(top, Math.floor(x * inverse + 0.5)));
    sum += error * error;
  }
  return sum;
}

/**
 * A super-block of `count` values in sub-blocks of `size`, sub-block j with the scale d * scales[j], scales being
 * integers from `low` (negative) to `high`. `storeScale` rounds d as it will be stored.
 */
export function fitSuperScale(
  values: Float32Array,
  from: number,
  count: number,
  size: number,
  grid: Grid,
  [low, high]: readonly [number, number],
  storeScale: (d: number) => number,
): { readonly d: number; readonly scales: readonly number[] } {
  const wanted = Array.from({ length: count / size }, (_, j) =>
    fitScale(values, from + j * size, size, grid),
  );
  const largest = wanted.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
  const d = storeScale(largest / low);
  if (d === 0) return { d, scales: wanted.map(() => 0) };
  const scales = wanted.map((scale, j) => {
    let best = 0;
    let bestError = Infinity;
    for (const candidate of neighbours(scale / d, high, low)) {
      const error = scaleError(values, from + j * size, size, d * candidate, grid);
      if (error < bestError) {
        bestError = error;
        best = candidate;
      }
    }
    return best;
  });
  return { d, scales };
}

/**
 * A super-block whose sub-block j stores d * scales[j] * q - dmin * mins[j], scales and mins being integers from 0 to
 * `topScale`, q from 0 to `top`. `storeScale` and `storeMin` round d and dmin as they will be stored.
 */
export function fitSuperAffine(
  values: Float32Array,
  from: number,
  count: number,
  size: number,
  top: number,
  topScale: number,
  storeScale: (d: number) => number,
  storeMin: (dmin: number) => number,
): {
  readonly d: number;
  readonly dmin: number;
  readonly scales: readonly number[];
  readonly mins: readonly number[];
} {
  const wanted = Array.from({ length: count / size }, (_, j) =>
    fitAffine(values, from + j * size, size, top, true),
  );
  const d = storeScale(Math.max(...wanted.map(({ scale }) => scale)) / topScale);
  const dmin = storeMin(Math.max(...wanted.map(({ min }) => -min)) / topScale);
  const scales: number[] = [];
  const mins: number[] = [];
  for (const [j, { scale, min }] of wanted.entries()) {
    const nearScale = neighbours(d === 0 ? 0 : scale / d, topScale);
    let best = { s: 0, m: 0 };
    let bestError = Infinity;
    for (const m of neighbours(dmin === 0 ? 0 : -min / dmin, topScale)) {
      for (const s of nearScale) {
        const error = affineError(values, from + j * size, size, d * s, -dmin * m, top);
        if (error < bestError) {
          bestError = error;
          best = { s, m };
        }
      }
    }
    scales.push(best.s);
    mins.push(best.m);
  }
  return { d, dmin, scales, mins };
}
