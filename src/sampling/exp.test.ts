import { expect, it } from "vitest";
import { expNegative } from "./exp.js";
import { createRandom } from "./random.js";

it("expNegative is e^x to 1e-13 from 0 down to -708, and 0 below", () => {
  const random = createRandom(6);
  let worst = 0;
  for (let i = 0; i < 200_000; i++) {
    const x = -708 * random.next() ** 4;
    worst = Math.max(worst, Math.abs(expNegative(x) / Math.exp(x) - 1));
  }
  for (let n = 0; n <= 1021; n++) {
    // The places where the tables change over, and their neighbours.
    for (const x of [n, n * (1 - 2 ** -52), n * (1 + 2 ** -52)].map((y) => -y * Math.LN2)) {
      worst = Math.max(worst, Math.abs(expNegative(x) / Math.exp(x) - 1));
    }
  }
  expect(worst).toBeLessThan(1e-13);
  expect([0, -0, -708, -708.0001, -1e9, -Infinity].map(expNegative)).toEqual([
    1,
    1,
    expect.closeTo(Math.exp(-708), 320),
    0,
    0,
    0,
  ]);
});
