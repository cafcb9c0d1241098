import { describe, expect, it } from "vitest";
import { openNull } from "../../test/support/local-thread.js";
import { type StandingOptions, sharedNow, standing } from "./standing.js";

describe("standing", () => {
  it("is what was given, with the deadline from when it is asked for", () => {
    expect(standing({})()).toEqual({});
    const asked = standing({ client: "ann", priority: -3, deadline: "2s" });
    const before = sharedNow();
    const { deadline, ...rest } = asked();
    expect(rest).toEqual({ client: "ann", priority: -3 });
    expect(deadline! - before).toBeGreaterThanOrEqual(2000);
  });

  it.each([
    ["client", { client: "" }],
    ["client", { client: "x".repeat(257) }],
    ["client", { client: 5 as never }],
    ["priority", { priority: 1.5 }],
    ["priority", { priority: 101 }],
    ["deadline", { deadline: 0 }],
    ["deadline", { deadline: "soon" }],
  ] satisfies [string, StandingOptions][])("refuses a wrong %s: %j", (name, options) => {
    expect(() => standing(options)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringContaining(`${name} is `) }),
    );
  });
});

describe("Model.generate", () => {
  it("takes a standing, which changes nothing of the answer", async () => {
    await using model = await openNull({ maxStall: "50ms" });
    const options = { maxTokens: 20 };
    const plain = await model.generate([1, 2, 3], options).result;
    const standing = { client: "ann", priority: 2, deadline: "1h" };
    const other = await model.generate([1, 2, 3], { ...options, ...standing }).result;
    expect(other.tokens).toEqual(plain.tokens);
    expect(other.finishReason).toBe("length");
    expect((await model.usage()).stalls).toMatchObject({ boundMs: 50 });
    expect(() => model.generate([1], { priority: 0.5 })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });

  it("says nothing of stalls where no bound was asked for", async () => {
    await using model = await openNull();
    expect((await model.usage()).stalls).toBeNull();
    expect(() => openNull({ maxStall: "soon" })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringContaining("maxStall is ") }),
    );
  });

  it("fails a request that waits past its deadline, though nothing runs meanwhile", async () => {
    await using model = await openNull({ sequences: 1, cache: { policy: { policy: "window", tokens: 32 } } });
    // Nobody reads: it pauses and keeps the only place.
    const endless = model.generate([1, 2], { maxTokens: Infinity })[Symbol.asyncIterator]();
    await endless.next();
    await expect(model.generate([3], { deadline: 30 }).result).rejects.toMatchObject({
      code: "DEADLINE_PASSED",
    });
    await endless.return?.();
  });

  it("ends an answer under way at its deadline, with what it has", async () => {
    await using model = await openNull({ cache: { policy: { policy: "window", tokens: 32 } } });
    const generation = model.generate([1, 2], { maxTokens: Infinity, ignoreEos: true, deadline: "300ms" });
    let tokens = 0;
    for await (const piece of generation) tokens += piece.tokens.length;
    const result = await generation.result;
    expect(result.finishReason).toBe("deadline");
    expect(result.usage.generatedTokens).toBe(tokens);
    expect(tokens).toBeGreaterThan(0);
    expect((await model.usage()).running).toBe(0);
  });
});
