import { expect, test } from "vitest";
import { normalNoise } from "./normal-noise.js";

const COUNT = 40_000;
const draw = (seed: number): Float64Array =>
  Float64Array.from({ length: COUNT }, (_, i) => normalNoise(seed)(i));

function correlation(a: Float64Array, b: Float64Array, lag = 0): number {
  let sum = 0;
  for (let i = lag; i < COUNT; i++) sum += a[i]! * b[i - lag]!;
  return sum / (COUNT - lag);
}

test("moments and tails are those of a standard normal", () => {
  const z = draw(12345);
  const moment = (power: number) => z.reduce((sum, x) => sum + x ** power, 0) / COUNT;
  expect(Math.abs(moment(1))).toBeLessThan(0.02);
  expect(moment(2)).toBeCloseTo(1, 1);
  expect(Math.abs(moment(3))).toBeLessThan(0.08);
  expect(moment(4)).toBeCloseTo(3, 0);
  const beyond = (limit: number) => z.filter((x) => Math.abs(x) > limit).length / COUNT;
  expect(beyond(1)).toBeCloseTo(0.3173, 2);
  expect(beyond(2)).toBeCloseTo(0.0455, 2);
});

test("neighbours, halves of a pair and other seeds are uncorrelated", () => {
  const z = draw(7);
  for (const lag of [1, 2, 3, 64]) expect(Math.abs(correlation(z, z, lag))).toBeLessThan(0.02);
  for (const seed of [6, 8, 7 + 2 ** 32, 7 + 2 ** 52]) {
    expect(Math.abs(correlation(z, draw(seed)))).toBeLessThan(0.02);
  }
});

test("an element depends on its seed and index alone", () => {
  const noise = normalNoise(2 ** 53 - 1);
  const late = noise(1_000_001);
  noise(0);
  expect(noise(1_000_001)).toBe(late);
  expect(normalNoise(2 ** 53 - 1)(1_000_001)).toBe(late);
});
