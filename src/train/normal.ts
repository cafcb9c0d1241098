import type { Random } from "../sampling/random.js";

/** Fills `out` with normal numbers of mean 0 (Box and Muller: two from two uniform ones). Advances `random`. */
export function fillNormal(out: Float32Array, random: Random, deviation: number): Float32Array {
  for (let i = 0; i < out.length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random.next())) * deviation;
    const angle = 2 * Math.PI * random.next();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}
