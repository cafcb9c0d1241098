/** Quantiles of what was measured. */

/** The least value that a `share` of all values does not exceed; NaN where there are none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export interface Quantiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** NaN where there are no values. */
export function quantiles(values: readonly number[]): Quantiles {
  const [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1].map((share) => quantile(values, share));
  return { p50: p50!, p90: p90!, p99: p99!, max: max! };
}
