import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { CostModel } from "./cost-model.js";
import { quantile, robustFit } from "./robust-fit.js";
import type { StepShape } from "./step-shape.js";

const shape = (part: Partial<StepShape>): StepShape => ({
  decodeRows: 0,
  prefillTokens: 0,
  prefillOutputs: 0,
  decodeReads: 0,
  prefillReads: 0,
  ...part,
});

/** Milliseconds of a machine whose costs are known. */
const truth = (s: StepShape, slower = 1) =>
  slower *
  (30 +
    2 * s.decodeRows +
    1.5 * s.prefillTokens +
    3 * s.prefillOutputs +
    0.001 * s.decodeReads +
    0.0005 * s.prefillReads);

/** Steps as serving makes them: some rows decode, mostly beside nothing, sometimes beside a chunk of a long prompt. */
function someStep(random: TestRandom): StepShape {
  const decodeRows = random.below(9);
  const prefillTokens = decodeRows > 0 && random.next() < 0.5 ? 0 : 1 + random.below(128);
  return shape({
    decodeRows,
    prefillTokens,
    prefillOutputs: prefillTokens > 0 && random.next() < 0.2 ? 1 : 0,
    decodeReads: decodeRows * random.below(4000),
    prefillReads: prefillTokens * random.below(4000),
  });
}

function learn(model: CostModel, steps: number, random: TestRandom, ms: (s: StepShape) => number): void {
  for (let i = 0; i < steps; i++) {
    const s = someStep(random);
    model.observe(s, ms(s));
  }
}

function worstError(model: CostModel, seed: number, slower = 1): number {
  const random = new TestRandom(seed);
  const errors = Array.from({ length: 200 }, () => {
    const s = someStep(random);
    return Math.abs(model.predict(s) / truth(s, slower) - 1);
  });
  return Math.max(...errors);
}

describe("robustFit", () => {
  const rows = Array.from({ length: 40 }, (_, i) => [1, i % 7, (i * i) % 11]);
  const plane = ([a, b, c]: readonly number[]) => 5 * a! + 2 * b! + 0.25 * c!;
  const exact = rows.map((features) => ({ features, value: plane(features), weight: 1 }));

  it("finds coefficients exactly where there is no noise", () => {
    const fit = robustFit(exact, [0, 0, 0]);
    for (const [i, want] of [5, 2, 0.25].entries()) expect(fit[i]).toBeCloseTo(want, 3);
  });

  it("is not moved by a fifth of outliers", () => {
    const spoilt = exact.map((row, i) => (i % 5 === 0 ? { ...row, value: row.value * 10 } : row));
    const fit = robustFit(spoilt, [0, 0, 0]);
    for (const row of exact) {
      const predicted = row.features.reduce((sum, feature, i) => sum + feature * fit[i]!, 0);
      expect(predicted / row.value).toBeGreaterThan(0.95);
      expect(predicted / row.value).toBeLessThan(1.1);
    }
  });

  it("gives no negative coefficient, where plain least squares would", () => {
    const falling = [1, 2, 3, 4].map((x) => ({ features: [1, x], value: 10 - x, weight: 1 }));
    const fit = robustFit(falling, [0, 0]);
    expect(fit[1]).toBe(0);
    expect(fit[0]).toBeGreaterThan(6);
  });

  it("keeps what it was given where nothing was observed", () => {
    expect(robustFit([], [1, 2])).toEqual([1, 2]);
    const fit = robustFit([{ features: [1, 0], value: 4, weight: 1 }], [1, 2]);
    expect(fit[0]).toBeCloseTo(4, 3);
    expect(fit[1]).toBe(2);
  });
});

describe("quantile", () => {
  it("is the least value that the share does not exceed", () => {
    expect(quantile([5, 1, 4, 2, 3], 0.5)).toBe(3);
    expect(quantile([5, 1, 4, 2, 3], 0.95)).toBe(5);
    expect(quantile([5, 1, 4, 2, 3], 0)).toBe(1);
    expect(quantile([], 0.5)).toBeNaN();
  });
});

describe("CostModel", () => {
  it("knows nothing at first, and says 0", () => {
    const model = new CostModel();
    expect(model.predict(shape({ decodeRows: 4, prefillTokens: 16 }))).toBe(0);
    expect(model.mostPrefill).toBe(0);
    expect(model.margin).toBe(1.5);
  });

  it("learns what each part of a step costs", () => {
    const model = new CostModel();
    learn(model, 400, new TestRandom(1), truth);
    expect(worstError(model, 2)).toBeLessThan(0.01);
    expect(model.margin).toBeLessThan(1.1);
    expect(model.mostPrefill).toBeGreaterThan(100);
  });

  it.each([0.1, 0.3])("learns through noise of ±%f, and leaves room for it", (noise) => {
    const model = new CostModel();
    const random = new TestRandom(3);
    learn(model, 800, random, (s) => truth(s) * (1 + noise * (2 * random.next() - 1)));
    expect(worstError(model, 4)).toBeLessThan(noise);
    expect(model.margin).toBeGreaterThan(1 + noise);
    expect(model.margin).toBeLessThan(1 + 5 * noise);
  });

  it("is not led astray by steps that the system interrupted", () => {
    const model = new CostModel();
    const random = new TestRandom(5);
    learn(model, 800, random, (s) => truth(s) * (random.next() < 0.05 ? 20 : 1 + 0.05 * random.next()));
    expect(worstError(model, 6)).toBeLessThan(0.15);
  });

  it("follows a machine that becomes three times slower, with a wide margin meanwhile", () => {
    const model = new CostModel();
    const random = new TestRandom(7);
    learn(model, 1000, random, truth);
    learn(model, 20, random, (s) => truth(s, 3));
    expect(model.margin).toBeGreaterThan(2);
    learn(model, 1000, random, (s) => truth(s, 3));
    expect(worstError(model, 8, 3)).toBeLessThan(0.1);
  });

  it("remembers what prefills cost through a long time of decoding alone", () => {
    const model = new CostModel();
    learn(model, 300, new TestRandom(9), truth);
    for (let i = 0; i < 5_000; i++) {
      const s = shape({ decodeRows: 4, decodeReads: 4 * (i % 4000) });
      model.observe(s, truth(s));
    }
    const s = shape({ decodeRows: 4, prefillTokens: 64, decodeReads: 8000, prefillReads: 64_000 });
    expect(model.predict(s) / truth(s)).toBeCloseTo(1, 1);
  });

  it("ignores durations that are none", () => {
    const model = new CostModel();
    model.observe(shape({ prefillTokens: 8 }), 0);
    model.observe(shape({ prefillTokens: 8 }), Number.NaN);
    expect(model.mostPrefill).toBe(0);
  });
});
