import { describe, expect, it } from "vitest";
import { nearest, oneOf, refuseUnknown, wholeNumber } from "./options.js";

const known = ["maxTokens", "temperature", "topK", "topP", "stop", "signal"];

describe("refuseUnknown", () => {
  it.each([
    ["max_tokens", "maxTokens"],
    ["maxToken", "maxTokens"],
    ["temprature", "temperature"],
    ["stops", "stop"],
    ["topp", "topP"],
  ])("takes %s for %s", (name, meant) => {
    expect(() => refuseUnknown("generate", { [name]: 1 }, known)).toThrow(
      expect.objectContaining({
        code: "INVALID_ARGUMENT",
        message: expect.stringContaining(`Did you mean "${meant}"?`),
        details: expect.objectContaining({ name, nearest: meant }),
      }),
    );
  });

  it("guesses nothing where nothing is near", () => {
    expect(nearest("colour", known)).toBeNull();
    expect(() => refuseUnknown("generate", { colour: 1 }, known)).toThrow(
      expect.objectContaining({ details: expect.objectContaining({ nearest: null }) }),
    );
  });

  it("accepts known names, and nothing that is not an object", () => {
    expect(() => refuseUnknown("generate", { maxTokens: 1, stop: "x" }, known)).not.toThrow();
    for (const bad of [null, "text", 3, []]) {
      expect(() => refuseUnknown("generate", bad, known)).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT" }),
      );
    }
  });
});

describe("wholeNumber and oneOf", () => {
  it("pass good values and absence through", () => {
    expect(wholeNumber("threads", 3, 1)).toBe(3);
    expect(wholeNumber("threads", undefined, 1)).toBeUndefined();
    expect(oneOf("codec", "f16", ["f16", "f32"])).toBe("f16");
    expect(oneOf("codec", undefined, ["f16", "f32"])).toBeUndefined();
  });

  it.each([0, 1.5, "2", Number.NaN, Number.POSITIVE_INFINITY, null])("refuse %j threads", (value) => {
    expect(() => wholeNumber("threads", value, 1, 64)).toThrow(
      expect.objectContaining({
        code: "INVALID_ARGUMENT",
        details: expect.objectContaining({ name: "threads", expected: "a whole number from 1 to 64" }),
      }),
    );
  });

  it("refuse what JSON cannot hold like anything else", () => {
    const circle: unknown[] = [];
    circle.push(circle);
    for (const [value, shown] of [
      [circle, "a list"],
      [{ big: 1n }, "an object"],
      [1n, "1"],
      [Symbol("x"), "Symbol(x)"],
    ]) {
      expect(() => wholeNumber("threads", value, 1)).toThrow(
        expect.objectContaining({
          code: "INVALID_ARGUMENT",
          details: expect.objectContaining({ got: shown }),
        }),
      );
    }
  });

  it("refuse a choice that does not exist, listing those that do", () => {
    expect(() => oneOf("codec", "f8", ["f16", "f32"])).toThrow('expected one of "f16", "f32"');
  });
});
