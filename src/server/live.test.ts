import { afterAll, beforeAll, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { eventsOf, serverOf } from "../../test/support/server.js";
import type { Model } from "../session/model.js";

let model: Model;
beforeAll(async () => {
  model = await openNull();
});
afterAll(() => model.close());

it("tells at once what the server does, and goes on until its reader goes", async () => {
  const { app, context } = serverOf({ tiny: model });
  const reader = (await app.request("/v1/live")).body!.getReader();
  const { pages, pageBytes } = await model.usage();
  for (let i = 0; i < 2; i++) {
    const { value } = await reader.read();
    expect(eventsOf(new TextDecoder().decode(value))).toEqual([
      {
        gap_ms: null,
        resident_bytes: expect.any(Number),
        models: [
          {
            name: "tiny",
            tokens_per_second: 0,
            running: 0,
            waiting: 0,
            used_bytes: 0,
            cached_bytes: 0,
            cache_bytes: pages * pageBytes,
          },
        ],
      },
    ]);
  }
  expect(context.works.size).toBe(1);
  await reader.cancel();
  expect(context.works.size).toBe(0);
});

it("ends with the server", async () => {
  const { app, context } = serverOf({ tiny: model });
  const text = (async () => (await app.request("/v1/live")).text())();
  while (context.works.size === 0) await new Promise(setImmediate);
  await context.works.drain(60_000);
  for (const event of eventsOf(await text)) expect(event).toHaveProperty("models");
});
