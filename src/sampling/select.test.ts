import { describe, expect, it } from "vitest";
import { createRandom } from "./random.js";
import { selectMass, topPlaces } from "./select.js";

/** Places of `values` in order, by a full sort. */
const sorted = (values: Float64Array) =>
  Array.from(values.keys()).sort((a, b) => values[b]! - values[a]! || a - b);

/** Many shapes of input: random, few distinct values, ascending, descending, all equal. */
function* inputs(): Generator<Float64Array> {
  const random = createRandom(5);
  for (const count of [1, 2, 3, 4, 7, 8, 33, 257]) {
    yield Float64Array.from({ length: count }, () => random.next());
    yield Float64Array.from({ length: count }, () => Math.floor(random.next() * 3));
    yield Float64Array.from({ length: count }, (_, i) => i);
    yield Float64Array.from({ length: count }, (_, i) => -i);
    yield new Float64Array(count);
  }
}

describe("topPlaces", () => {
  it("equals a full sort for every k, ties to the lower place", () => {
    for (const values of inputs()) {
      const order = sorted(values);
      for (const k of new Set([0, 1, 2, 5, values.length - 1, values.length, values.length + 3])) {
        if (k < 0) continue;
        const got = topPlaces(values, values.length, k, new Int32Array(values.length));
        expect(Array.from(got)).toEqual(order.slice(0, k));
      }
    }
  });

  it("looks at the first `count` values only", () => {
    const got = topPlaces(Float64Array.of(1, 3, 2, 9), 3, 2, new Int32Array(4));
    expect(Array.from(got)).toEqual([1, 2]);
  });
});

describe("selectMass", () => {
  const identity = (count: number) => Int32Array.from({ length: count }, (_, i) => i);

  it("equals walking down a full sort until the mass is reached", () => {
    for (const keys of inputs()) {
      // Multiples of 1/1024 sum without rounding, so that the order of summation cannot matter.
      const masses = Float64Array.from(keys, (_, i) => ((i * 7) % 11) / 1024);
      const total = masses.reduce((sum, mass) => sum + mass, 0);
      const order = sorted(keys);
      for (const share of [0.001, 0.1, 0.5, 0.9, 0.999, 1]) {
        const target = share * total;
        if (target === 0) continue;
        let sum = 0;
        const length =
          1 +
          order.findIndex((place) => {
            sum += masses[place]!;
            return sum >= target;
          });
        const places = identity(keys.length);
        const selected = selectMass(keys, masses, places, keys.length, target);
        expect(Array.from(places.subarray(0, selected).sort())).toEqual(
          order.slice(0, length).sort((a, b) => a - b),
        );
        expect(Array.from(places.sort())).toEqual(Array.from(identity(keys.length)));
      }
    }
  });

  it("selects among the places it is given only", () => {
    const places = Int32Array.of(4, 0, 2);
    const values = Float64Array.of(0.125, 0.5, 0.25, 0.5, 0.0625);
    expect(selectMass(values, values, places, 3, 0.25)).toBe(1);
    expect(places[0]).toBe(2);
  });

  it("selects all where the masses never reach the target", () => {
    for (const keys of inputs()) {
      const masses = new Float64Array(keys.length);
      expect(selectMass(keys, masses, identity(keys.length), keys.length, 1)).toBe(keys.length);
    }
  });
});
