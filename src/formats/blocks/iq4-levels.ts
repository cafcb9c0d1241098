import type { Grid } from "./search.js";

/** The sixteen levels of IQ4_NL and IQ4_XS: closer together around zero, where most weights lie. */
export const IQ4_LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

/** Number of the nearest level, by floor(2x) + 256: all borders between levels are multiples of one half. */
const NEAREST = Uint8Array.from({ length: 512 }, (_, k) => {
  const x = (k - 256) / 2 + 0.25;
  let best = 0;
  for (const [index, level] of IQ4_LEVELS.entries()) {
    if (Math.abs(level - x) < Math.abs(IQ4_LEVELS[best]! - x)) best = index;
  }
  return best;
});

export function nearestLevel(x: number): number {
  return NEAREST[Math.max(0, Math.min(511, Math.floor(2 * x) + 256))]!;
}

export const IQ4_GRID: Grid = {
  extreme: -127,
  opposite: 113,
  step: 3,
  round: (x) => IQ4_LEVELS[nearestLevel(x)]!,
};
