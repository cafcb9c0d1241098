/** Seeds made of other seeds. */

/**
 * A seed below 2^53 that depends on every bit of every part, in order; equal parts give equal seeds. Parts are whole
 * numbers of at least 0 and below 2^53, or texts. (Two 32-bit lanes of multiply-and-mix, as hash tables use them.)
 */
export function deriveSeed(...parts: readonly (number | string)[]): number {
  let high = 0x9e3779b9;
  let low = 0x85ebca6b;
  const absorb = (word: number) => {
    high = mix(high ^ word);
    low = mix((low + Math.imul(word, 0xc2b2ae35)) ^ high);
  };
  for (const part of parts) {
    if (typeof part === "number") {
      absorb(part >>> 0);
      absorb(Math.floor(part / 2 ** 32) >>> 0);
    } else {
      absorb(part.length);
      for (let i = 0; i < part.length; i++) absorb(part.charCodeAt(i));
    }
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0);
}

/** A bijection of 32-bit words in which every bit of the input changes about half of the output's. */
function mix(word: number): number {
  let x = word | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return x ^ (x >>> 16);
}
