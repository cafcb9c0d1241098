/**
 * Standard normal noise by counter: element `index` of the noise of `seed` is a function of both and of nothing
 * else, so that noise is remade wherever it is wanted and never stored (MeZO, 2305.17333; random projections).
 * kernels/train_normal.c draws the same numbers to within f32 rounding.
 *
 * All words are unsigned 32-bit. hash(x) is x ^= x >> 16, x *= 0x7feb352d, x ^= x >> 15, x *= 0x846ca68b,
 * x ^= x >> 16: a bijection in which every input bit flips every output bit with a probability near one half.
 * The seed (below 2^53) gives three keys:
 *
 *   k0 = hash(seed mod 2^32 + 0x9e3779b9)    k1 = hash(k0 ^ floor(seed / 2^32))    k2 = hash(k1 + 0x85ebca6b)
 *
 * Elements 2j and 2j + 1 (j below 2^32) share two words
 *
 *   a = hash(j + k0) ^ k1    u = hash(a)    v = hash(a + k2)
 *
 * and are sqrt(-2 ln p) times cos and sin of an angle (Box and Muller 1958), where
 *
 *   p = (floor(u / 2^9) + 1/2) / 2^23    angle = pi/2 (floor(v / 2^7) + 1/2) / 2^23 - pi/4
 *
 * so that p, and the angle's quadrant and its place in it, are exact in f32.
 */
const GOLDEN = 0x9e3779b9;
const STEP = 0x85ebca6b;

function hash(word: number): number {
  let x = word >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The three keys of a seed: what the kernels are given. */
export function noiseKeys(seed: number): readonly [number, number, number] {
  const k0 = hash((seed % 2 ** 32) + GOLDEN);
  const k1 = hash(k0 ^ Math.floor(seed / 2 ** 32));
  return [k0, k1, hash(k1 + STEP)];
}

/** The noise of one seed, element by element, in double precision. */
export function normalNoise(seed: number): (index: number) => number {
  const [k0, k1, k2] = noiseKeys(seed);
  return (index) => {
    const a = (hash(Math.floor(index / 2) + k0) ^ k1) >>> 0;
    const radius = Math.sqrt(-2 * Math.log(((hash(a) >>> 9) + 0.5) / 2 ** 23));
    const angle = (Math.PI / 2) * (((hash(a + k2) >>> 7) + 0.5) / 2 ** 23) - Math.PI / 4;
    return radius * (index % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
  };
}
