import { expect, it } from "vitest";
import { Slots } from "./slots.js";

const never = new AbortController().signal;

it("places go to who has the fewest, then to who came first, and come back", async () => {
  const slots = new Slots(2);
  const order: string[] = [];
  const take = async (owner: string, name: string) => {
    const place = await slots.take(owner, never);
    order.push(name);
    return place;
  };
  const first = await take("a", "a1");
  const [second, third, fourth, fifth] = ["a2", "a3", "b1", "b2"].map((name) => take(name[0]!, name));
  const a2 = await second!;
  expect(order).toEqual(["a1", "a2"]);
  first[Symbol.dispose]();
  const b1 = await fourth!;
  a2[Symbol.dispose]();
  await third;
  expect(order).toEqual(["a1", "a2", "b1", "a3"]);
  b1[Symbol.dispose]();
  await fifth;
  expect(order).toEqual(["a1", "a2", "b1", "a3", "b2"]);
});

it("who no longer waits gets none", async () => {
  const slots = new Slots(1);
  const held = await slots.take("a", never);
  const abort = new AbortController();
  const gone = slots.take("b", abort.signal);
  const next = slots.take("c", never);
  abort.abort(new Error("gone"));
  await expect(gone).rejects.toThrow("gone");
  await expect(slots.take("d", abort.signal)).rejects.toThrow("gone");
  held[Symbol.dispose]();
  (await next)[Symbol.dispose]();
  await slots.take("e", never);
});
