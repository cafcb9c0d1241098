import { expect, test } from "vitest";
import { fillRopeTable, ropeTableLength } from "./rope-table.js";

const rope = { id: 0, frequencies: Float64Array.of(Math.PI / 4, 0.5), magnitude: 2, style: "half" } as const;

test("token rows carry the magnitude, segment rotations do not; cosines come before sines", () => {
  const out = new Float32Array(ropeTableLength(rope, 2, 1));
  expect(out).toHaveLength(12);
  fillRopeTable(rope, Int32Array.of(0, 1), Float64Array.of(-2), out);
  const half = Math.SQRT1_2;
  const want = [
    ...[2, 2, 0, 0],
    ...[2 * half, 2 * Math.cos(0.5), 2 * half, 2 * Math.sin(0.5)],
    ...[Math.cos(-Math.PI / 2), Math.cos(1), -1, -Math.sin(1)],
  ];
  expect([...out]).toEqual(want.map(Math.fround));
});

test("stays exact at positions of many millions", () => {
  const big = new Float32Array(4);
  fillRopeTable({ ...rope, magnitude: 1 }, Int32Array.of(80_000_003), new Float64Array(0), big);
  // 80,000,003 eighths of a turn are 3 eighths.
  expect(big[0]).toBeCloseTo(Math.cos((3 * Math.PI) / 4), 6);
  expect(big[2]).toBeCloseTo(Math.sin((3 * Math.PI) / 4), 6);
});

test("refuses a table that is too short", () => {
  const short = new Float32Array(7);
  expect(() => fillRopeTable(rope, Int32Array.of(1, 2), new Float64Array(0), short)).toThrow(/7 floats; 8/);
});
