import { MillraceError } from "../errors.js";
import type { RopeRef } from "../tape/tape.js";

/** Floats of a rope table: f32 [numTokens + numRotations, 2, pairs]. */
export const ropeTableLength = (rope: RopeRef, numTokens: number, numRotations: number): number =>
  (numTokens + numRotations) * 2 * rope.frequencies.length;

/**
 * Fills `out` with the table that every backend's rope and attention read, f32 [T + rotations, 2, pairs]: per row
 * the cosines, then the sines. Rows 0 .. T-1 are the tokens' positions, times the rope's magnitude; the rows after
 * them are the step's segment rotations, with magnitude 1. Angles are computed in double precision.
 * Throws INVALID_ARGUMENT where `out` is too short.
 */
export function fillRopeTable(
  rope: RopeRef,
  positions: Int32Array,
  rotations: Float64Array,
  out: Float32Array,
): void {
  const needed = ropeTableLength(rope, positions.length, rotations.length);
  if (out.length < needed) {
    throw new MillraceError("INVALID_ARGUMENT", `Rope table of ${out.length} floats; ${needed} are needed.`);
  }
  const { frequencies, magnitude } = rope;
  const pairs = frequencies.length;
  let at = 0;
  const writeRow = (position: number, factor: number): void => {
    for (let i = 0; i < pairs; i++) {
      const angle = position * frequencies[i]!;
      out[at + i] = Math.cos(angle) * factor;
      out[at + pairs + i] = Math.sin(angle) * factor;
    }
    at += 2 * pairs;
  };
  for (const position of positions) writeRow(position, magnitude);
  for (const rotation of rotations) writeRow(rotation, 1);
}
