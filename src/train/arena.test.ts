import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { Arena, type Slot } from "./arena.js";

describe("the arena", () => {
  it("never lets two living matrices share memory, nor grows past what a step needs", async () => {
    const random = new TestRandom(2);
    const arena = new Arena();
    const living: Slot[] = [];
    let [most, now] = [0, 0];
    const end = ({ at, rows, columns }: Slot): number => at + rows * columns;
    for (let i = 0; i < 2000; i++) {
      if (living.length > 0 && random.next() < 0.5) {
        const [slot] = living.splice(random.below(living.length), 1);
        arena.release(slot!);
        now -= slot!.rows * slot!.columns;
        continue;
      }
      const slot = arena.take(16, 1 + random.below(20));
      for (const other of living) expect(slot.at >= end(other) || end(slot) <= other.at).toBe(true);
      living.push(slot);
      now += slot.rows * slot.columns;
      most = Math.max(most, now);
    }
    expect(arena.height).toBeGreaterThanOrEqual(most);
    // The plan's cost: holes that nothing fitted.
    expect(arena.height).toBeLessThan(1.3 * most);
    for (const slot of living) arena.release(slot);
    const { height } = arena;
    const whole = arena.take(height / 16, 16);
    expect([whole.at, arena.height]).toEqual([0, height]);
  });

  it("gives memory only once it is committed, and frees it", async () => {
    const arithmetic = createReferenceTraining();
    const arena = new Arena();
    const a = arena.take(2, 8);
    arena.release(a);
    const b = arena.take(3, 10);
    expect(() => b.values).toThrowError("committed");
    arena.commit(arithmetic);
    expect(b.values.length).toBe(32);
    arithmetic.fill(b, 1);
    arithmetic.fill(b.slice(1, 1).columnsFrom(4, 2), 5);
    const rows = await b.values.read();
    expect(rows.indexOf(5)).toBe(14);
    expect([...rows].filter((x) => x === 5).length).toBe(2);
    arena.free();
    expect(arithmetic.bytes.current).toBe(0);
  });
});
