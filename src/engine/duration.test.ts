import { describe, expect, it } from "vitest";
import { parseDuration } from "./duration.js";

describe("parseDuration", () => {
  it.each([
    [200, 200],
    ["200", 200],
    ["200ms", 200],
    ["1.5s", 1500],
    [".5 S", 500],
    [" 2 min ", 120_000],
    ["1h", 3_600_000],
  ])("reads %j as %i ms", (text, ms) => {
    expect(parseDuration(text, "maxStall")).toBe(ms);
  });

  it.each([
    0,
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    "",
    "ms",
    "5 fortnights",
    "1e3",
    null,
    undefined,
    {},
  ])("refuses %j by the option's name", (value) => {
    expect(() => parseDuration(value, "maxStall")).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringContaining("maxStall is ") }),
    );
  });
});
