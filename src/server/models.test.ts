import { afterAll, beforeAll, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

let model: Model;
beforeAll(async () => {
  model = await openNull();
});
afterAll(() => model.close());

it("tells the ids of a text, with control tokens or without", async () => {
  const { ask } = serverOf({ tiny: model });
  const ids = async (body: object) => (await ask("/v1/models/default/tokenize", body)).body.tokens;
  const name = "<s>";
  expect(await ids({ text: "the rest" })).toEqual(await model.tokenize("the rest"));
  expect(await ids({ text: "the rest", add_special: false })).toEqual(
    await model.tokenize("the rest", { addSpecial: false }),
  );
  expect(await ids({ text: name, add_special: false, parse_special: true })).toEqual([1]);
  expect((await ids({ text: name, add_special: false })).length).toBeGreaterThan(1);
});

it("refuses models that are none, and texts that are none", async () => {
  const { ask } = serverOf({ tiny: model });
  expect((await ask("/v1/models/other/tokenize", { text: "x" })).status).toBe(404);
  for (const body of [{}, { text: 5 }, { text: "x", model: "tiny" }, { text: "x", add_special: "yes" }]) {
    expect((await ask("/v1/models/tiny/tokenize", body)).status).toBe(400);
  }
});
