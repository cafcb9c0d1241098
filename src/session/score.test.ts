import { afterEach, describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { TestRandom } from "../../test/support/random.js";
import { full, sinks } from "../engine/policies.js";
import type { Model } from "./model.js";

const models: Model[] = [];
const open = async (...parameters: Parameters<typeof openNull>) => {
  const model = await openNull(...parameters);
  models.push(model);
  return model;
};
afterEach(async () => {
  for (const model of models.splice(0)) await model.close();
});

const random = new TestRandom(7);
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.below(317));

describe("Session.score", () => {
  it("says piece by piece what Model.score says of the whole, and nothing of the first token", async () => {
    const model = await open();
    const all = tokens(120);
    const whole = await model.score(all);
    const session = model.session({ cache: full() });
    const said: number[] = [];
    for (const [from, to] of [
      [0, 1],
      [1, 40],
      [40, 41],
      [41, 120],
    ]) {
      const piece = await session.score(all.slice(from, to));
      expect(Array.from(piece.tokens)).toEqual(all.slice(from, to));
      said.push(...piece.logprobs);
    }
    expect(said[0]).toBeNaN();
    expect(said.slice(1)).toEqual(Array.from(whole.logprobs));
    expect(session.report).toMatchObject({ seen: 119, waiting: 1 });
  });

  it("mixes with appends and answers, which stay as they are", async () => {
    const model = await open();
    const all = tokens(90);
    const { logprobs } = await model.score(all);
    const session = model.session({ cache: full() });
    void session.append(all.slice(0, 30));
    const scored = session.score(all.slice(30, 60));
    void session.append(all.slice(60));
    const answer = await session.generate({ maxTokens: 10, ignoreEos: true }).result;
    expect(Array.from((await scored).logprobs)).toEqual(Array.from(logprobs.slice(29, 59)));
    const want = await model.generate(all, { maxTokens: 10, ignoreEos: true }).result;
    expect(answer.tokens).toEqual(want.tokens);
  });

  it("scores what is appended to an answer under way, which goes on from there", async () => {
    const model = await open();
    const session = model.session({ cache: full() });
    const [start, later] = [tokens(5), tokens(20)];
    await session.append(start);
    const said: number[] = [];
    let scored: ReturnType<typeof session.score> | null = null;
    let before = 0;
    for await (const piece of session.generate({ maxTokens: 60, ignoreEos: true })) {
      said.push(...piece.tokens);
      if (said.length >= 20) scored ??= session.score(later);
    }
    const { logprobs } = await scored!;
    expect(said).toHaveLength(60);
    // Where it went in shows in the whole stream's scores.
    const found = await Promise.all(
      Array.from({ length: 41 }, async (_, i) => {
        before = 20 + i;
        const stream = [...start, ...said.slice(0, before), ...later];
        return (await model.score(stream)).logprobs.slice(-20);
      }),
    );
    expect(found.map((each) => Array.from(each))).toContainEqual(Array.from(logprobs));
  });

  it("goes on for any length where tokens are let go, and refuses unknown options", async () => {
    const model = await open();
    const session = model.session({ cache: sinks({ window: 60 }) });
    let count = 0;
    for (let i = 0; i < 12; i++) {
      const { logprobs } = await session.score(tokens(200));
      count += logprobs.filter((logprob) => logprob < 0).length;
    }
    expect(count).toBe(2399);
    expect(session.report.dropped).toBeGreaterThan(2000);
    expect(() => session.score([5], { every: 1 } as object)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });
});
