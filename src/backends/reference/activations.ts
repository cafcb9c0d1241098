/** The gate functions of gated feed-forwards, and their derivatives, in double precision. */
import type { Activation } from "../../tape/tape.js";

interface Curve {
  value(x: number): number;
  derivative(x: number): number;
}

const TANH_SCALE = Math.sqrt(2 / Math.PI);
const TANH_CUBIC = 0.044715;

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const bend = (x: number): number => Math.tanh(TANH_SCALE * (x + TANH_CUBIC * x ** 3));

export const ACTIVATIONS: Readonly<Record<Activation, Curve>> = {
  silu: {
    value: (x) => x / (1 + Math.exp(-x)),
    derivative: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
  },
  gelu: {
    value: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
    derivative: (x) =>
      0.5 * (1 + erf(x * Math.SQRT1_2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  },
  gelu_tanh: {
    value: (x) => 0.5 * x * (1 + bend(x)),
    derivative: (x) => {
      const t = bend(x);
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * TANH_SCALE * (1 + 3 * TANH_CUBIC * x * x);
    },
  },
};

/** erf(x) = 2 / sqrt(pi) * exp(-x^2) * sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)): no cancellation. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
