import type { RopeRef } from "../../tape/tape.js";

/**
 * Rotates, in place, the head that starts at `at`: each pair (a, b) by row `row` of the rope table becomes
 * (a cos - b sin, a sin + b cos). Elements past the rotated width stay as they are.
 */
export function rotate(
  values: Float32Array | Float64Array,
  at: number,
  rope: RopeRef,
  table: Float32Array,
  row: number,
): void {
  turn(values, at, rope, table, row, 1);
}

/** Undoes `rotate`, but for the square of what the rope's magnitude is. */
export function rotateBack(
  values: Float32Array | Float64Array,
  at: number,
  rope: RopeRef,
  table: Float32Array,
  row: number,
): void {
  turn(values, at, rope, table, row, -1);
}

function turn(
  values: Float32Array | Float64Array,
  at: number,
  rope: RopeRef,
  table: Float32Array,
  row: number,
  direction: 1 | -1,
): void {
  const pairs = rope.frequencies.length;
  for (let i = 0; i < pairs; i++) {
    const first = at + (rope.style === "interleaved" ? 2 * i : i);
    const second = first + (rope.style === "interleaved" ? 1 : pairs);
    const cos = table[row * 2 * pairs + i]!;
    const sin = direction * table[row * 2 * pairs + pairs + i]!;
    const [a, b] = [values[first]!, values[second]!];
    values[first] = a * cos - b * sin;
    values[second] = a * sin + b * cos;
  }
}
