import { expect, it } from "vitest";
import { Passing } from "./passing.js";

it("holds what has come and not gone, by number", () => {
  const passing = new Passing<string>();
  for (let id = 1; id <= 1000; id++) {
    passing.set(id, `${id}`);
    if (id > 3) expect(passing.delete(id - 3)).toBe(true);
  }
  expect(passing.values()).toEqual(["998", "999", "1000"]);
  expect([passing.get(999), passing.get(997), passing.delete(997)]).toEqual(["999", undefined, false]);
  passing.clear();
  expect([passing.values(), passing.get(999)]).toEqual([[], undefined]);
});
