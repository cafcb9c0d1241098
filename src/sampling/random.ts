import { MillraceError } from "../errors.js";

/** The four 32-bit words of a generator: plain numbers, made to be stored. */
export type RandomState = readonly [number, number, number, number];

export interface Random {
  /** A double in [0, 1) with 53 random bits. Advances the state. */
  next(): number;
  save(): RandomState;
  /** Continues the sequence at `state`. Throws INVALID_ARGUMENT for anything that `save` cannot have returned. */
  restore(state: RandomState): void;
}

/**
 * xoshiro128** (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2018), its state filled from
 * `seed` (a whole number from 0 to 2^53 - 1) by splitmix32 over both halves of the seed.
 */
export function createRandom(seed: number): Random {
  let mix = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) >>> 0;
  const splitmix = (): number => {
    mix = (mix + 0x9e3779b9) >>> 0;
    let z = mix;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  let a = splitmix();
  let b = splitmix();
  mix = (mix ^ high) >>> 0;
  let c = splitmix();
  let d = splitmix();
  // The all-zero state is the one fixed point of the generator.
  if ((a | b | c | d) === 0) d = 1;

  const word = (): number => {
    const five = Math.imul(b, 5);
    const result = Math.imul((five << 7) | (five >>> 25), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = (d << 11) | (d >>> 21);
    return result;
  };

  return {
    next: () => ((word() >>> 5) * 2 ** 26 + (word() >>> 6)) / 2 ** 53,
    save: () => [a >>> 0, b >>> 0, c >>> 0, d >>> 0],
    restore(state) {
      const isWord = (x: unknown) => Number.isInteger(x) && (x as number) >= 0 && (x as number) < 2 ** 32;
      if (
        !Array.isArray(state) ||
        state.length !== 4 ||
        !state.every(isWord) ||
        state.every((x) => x === 0)
      ) {
        throw new MillraceError(
          "INVALID_ARGUMENT",
          "A random state is four 32-bit words, not all of them zero.",
          {
            name: "state",
            got: JSON.stringify(state) ?? "undefined",
            expected: "four whole numbers from 0 to 2^32 - 1, not all zero",
          },
        );
      }
      a = state[0];
      b = state[1];
      c = state[2];
      d = state[3];
    },
  };
}
