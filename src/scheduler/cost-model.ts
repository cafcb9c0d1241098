/**
 * How long a step takes, learnt while steps run: a non-negative sum over its shape, fitted by robust least squares to
 * what steps took before. Of each size of step the newest are kept, so that hours of decoding do not wash out what
 * prefills cost, and older ones count less, so that the fit follows a machine that others slow down.
 */
import { dot, median, type Observation, quantile, robustFit } from "./robust-fit.js";
import type { StepShape } from "./step-shape.js";

/** Steps that are kept of each size, by powers of two of decoding rows and prefill tokens. */
const NEWEST = 8;
/** A step that lies this many back counts half. */
const HALF_LIFE = 512;
/** Most steps from one fit to the next; at first each step is fitted. */
const REFIT = 8;
/** Errors of prediction that the margin is taken from, the newest. */
const ERRORS = 64;
/** Robust standard deviations of the error that the margin leaves room for. */
const DEVIATIONS = 4;
/** The margin while fewer errors than `ENOUGH` are known, and the least one ever. */
const FIRST_MARGIN = 1.5;
const LEAST_MARGIN = 1.05;
const ENOUGH = 8;

interface Seen {
  readonly features: readonly number[];
  readonly ms: number;
  readonly at: number;
}

export class CostModel {
  readonly #sizes = new Map<string, Seen[]>();
  /** Measured over predicted, of steps that decode and prefill. */
  #errors: number[] = [];
  #steps = 0;
  #coefficients: readonly number[] = [0, 0, 0, 0, 0, 0];
  /** Steps seen since the fit. */
  #unfitted = 0;
  #margin = FIRST_MARGIN;
  #mostPrefill = 0;

  /** Most prefill tokens of any step seen; 0 before the first. */
  get mostPrefill(): number {
    return this.#mostPrefill;
  }

  /** Milliseconds that a step of this shape takes, as far as is known; 0 while nothing is. */
  predict(shape: StepShape): number {
    return dot(featuresOf(shape), this.#fitted());
  }

  /**
   * What predictions are to be multiplied by so that steps that decode and prefill rarely take longer: by the spread of
   * the errors made lately, and never less than nearly all of them.
   */
  get margin(): number {
    return this.#margin;
  }

  /** Learns that a step of this shape took `ms`. */
  observe(shape: StepShape, ms: number): void {
    if (!(ms > 0)) return;
    const isMixed = shape.decodeRows > 0 && shape.prefillTokens > 0;
    if (isMixed && this.#mostPrefill > 0) {
      const predicted = this.predict(shape);
      if (predicted > 0) this.#errors = [...this.#errors.slice(1 - ERRORS), ms / predicted];
      this.#margin = marginOf(this.#errors);
    }
    const size = `${Math.ceil(Math.log2(1 + shape.decodeRows))} ${Math.ceil(Math.log2(1 + shape.prefillTokens))}`;
    const seen = this.#sizes.get(size) ?? [];
    this.#sizes.set(size, [
      ...seen.slice(1 - NEWEST),
      { features: featuresOf(shape), ms, at: this.#steps++ },
    ]);
    this.#mostPrefill = Math.max(this.#mostPrefill, shape.prefillTokens);
    this.#unfitted += 1;
  }

  #fitted(): readonly number[] {
    if (this.#unfitted <= Math.min(this.#steps / 16, REFIT - 1)) return this.#coefficients;
    const observations: Observation[] = [];
    for (const seen of this.#sizes.values()) {
      for (const { features, ms, at } of seen) {
        observations.push({ features, value: ms, weight: 1 / (1 + (this.#steps - at) / HALF_LIFE) });
      }
    }
    this.#coefficients = robustFit(observations, this.#coefficients);
    this.#unfitted = 0;
    return this.#coefficients;
  }
}

function featuresOf(shape: StepShape): number[] {
  const { decodeRows, prefillTokens, prefillOutputs, decodeReads, prefillReads } = shape;
  // The weights are read once, whatever a step runs.
  return [1, decodeRows, prefillTokens, prefillOutputs, decodeReads, prefillReads];
}

/** Errors are ratios; their spread is taken about their median, which hiccups do not move. */
function marginOf(errors: readonly number[]): number {
  const middle = median(errors);
  const spread = 1.4826 * median(errors.map((error) => Math.abs(error - middle)));
  const margin = Math.max(LEAST_MARGIN, middle + DEVIATIONS * spread, quantile(errors, 0.95));
  return errors.length < ENOUGH ? Math.max(FIRST_MARGIN, margin) : margin;
}
