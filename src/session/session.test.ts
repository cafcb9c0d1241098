import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import type { CacheEvent } from "../cache/sequence.js";
import type { Piece } from "../engine/generation.js";
import { full, h2o, sinks, window } from "../engine/policies.js";
import type { Model } from "./model.js";
import type { Session } from "./session.js";

const models: Model[] = [];
const open = async (...parameters: Parameters<typeof openNull>) => {
  const model = await openNull(...parameters);
  models.push(model);
  return model;
};
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

const code = (name: string) => expect.objectContaining({ code: name });
const VOCABULARY = 320;
const random = new TestRandom(1);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(VOCABULARY - 3));
async function collect(pieces: AsyncIterable<Piece>): Promise<number[]> {
  const all: number[] = [];
  for await (const piece of pieces) all.push(...piece.tokens);
  return all;
}
const greedy = { ignoreEos: true } as const;
/** Every token that a session ever saw is somewhere. */
function expectAccount({ report }: Session): void {
  const { seen, kept, merged, demoted, dropped } = report;
  expect(kept + merged + demoted + dropped).toBe(seen);
}

describe("a session", () => {
  it("says after many appends what a request says after one prompt", async () => {
    const model = await open();
    const prompt = tokens(70);
    const want = (await model.generate(prompt, { ...greedy, maxTokens: 30 }).result).tokens;
    const session = model.session({ cache: full() });
    expect(await session.append(prompt.slice(0, 1))).toBe(1);
    void session.append(prompt.slice(1, 40));
    expect(await session.append(prompt.slice(40))).toBe(30);
    expect(session.report).toMatchObject({ seen: 69, kept: 69, dropped: 0, waiting: 1 });
    expect(await collect(session.generate({ ...greedy, maxTokens: 12 }))).toEqual(want.slice(0, 12));
    expect(await collect(session.generate({ ...greedy, maxTokens: 18 }))).toEqual(want.slice(12));
    expect(session.report).toMatchObject({ seen: 99, waiting: 1 });
  });

  it("takes what is appended during an answer with the next step", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    await session.append(tokens(9));
    const said: number[] = [];
    const later = tokens(20);
    let appended: Promise<number> | null = null;
    for await (const piece of session.generate({ ...greedy, maxTokens: 100 })) {
      said.push(...piece.tokens);
      if (said.length >= 40) appended ??= session.append(later);
    }
    expect(await appended).toBe(20);
    expect(said).toHaveLength(100);
    // Where the tokens went in: the answer up to there, and the rest from there, are those of plain requests.
    expect(session.report).toMatchObject({ seen: 9 + 100 + 20 - 1, waiting: 1 });
    const again = model.session({ cache: full() });
    await again.append(tokens(1));
    expect(await again.rewind(0)).toBe("exact");
  });
});
