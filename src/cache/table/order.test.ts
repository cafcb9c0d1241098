import { describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { NONE, TokenOrder } from "./order.js";

describe("TokenOrder", () => {
  it("agrees with a list through random operations, undone ones included", () => {
    const random = new TestRandom(1);
    const order = new TokenOrder(8);
    const list: number[] = [];
    let room = 8;
    for (let i = 0; i < 2000; i++) {
      const free = Array.from({ length: room }, (_, slot) => slot).filter((slot) => !list.includes(slot));
      const action = random.below(10);
      const at = random.below(list.length);
      if (action < 4 && free.length > 0) {
        const slot = free[random.below(free.length)]!;
        order.append(slot);
        list.push(slot);
      } else if (action < 6 && list.length > 0) {
        order.remove(list[at]!);
        list.splice(at, 1);
      } else if (action < 8 && list.length > 0 && free.length > 0) {
        const to = free[random.below(free.length)]!;
        order.rename(list[at]!, to);
        list[at] = to;
      } else if (action === 8) {
        const removed = random.permutation(list.length).slice(0, random.below(list.length + 1));
        const slots = removed.map((place) => list[place]!);
        for (const slot of slots) order.remove(slot);
        expect([...order.fromOldest()]).toEqual(list.filter((slot) => !slots.includes(slot)));
        for (const slot of slots.reverse()) order.putBack(slot);
      } else if (room < 64) {
        room *= 2;
        order.grow(room);
      }
      expect([...order.fromOldest()]).toEqual(list);
      expect([...order.fromNewest()]).toEqual(list.toReversed());
      expect([order.oldest, order.newest]).toEqual([list[0] ?? NONE, list.at(-1) ?? NONE]);
    }
    expect(list.length).toBeGreaterThan(8);
  });

  it("goes its own way as a copy", () => {
    const order = new TokenOrder(4);
    for (const slot of [2, 0, 3]) order.append(slot);
    const copy = new TokenOrder(4);
    copy.copyFrom(order);
    copy.remove(0);
    order.append(1);
    expect([...copy.fromOldest()]).toEqual([2, 3]);
    expect([...order.fromOldest()]).toEqual([2, 0, 3, 1]);
  });
});
