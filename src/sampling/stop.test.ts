import { describe, expect, it } from "vitest";
import { createStopMatcher } from "./stop.js";

/** Runs `text` through a matcher, cut into pieces of `size`. */
function run(text: string, stops: readonly string[], size: number): { text: string; stopped: boolean } {
  const matcher = createStopMatcher(stops);
  let out = "";
  for (let at = 0; at < text.length; at += size) {
    const piece = matcher.push(text.slice(at, at + size));
    out += piece.text;
    if (piece.stopped) return { text: out, stopped: true };
  }
  return { text: out + matcher.flush(), stopped: false };
}

describe("createStopMatcher", () => {
  it.each([
    ["hello END more", ["END"], "hello ", true],
    ["hello EN", ["END"], "hello EN", false],
    ["aaab", ["aab"], "a", true],
    ["ababac", ["abac"], "ab", true],
    ["abcd", ["bcd", "abcd"], "", true],
    ["xabcd", ["abcdef", "bc"], "xa", true],
    ["\n\nUser: hi", ["\nUser:"], "\n", true],
    ["no stops here", [], "no stops here", false],
    ["stop", ["stop"], "", true],
  ] as const)("cuts %j at %j, whatever the pieces", (text, stops, expected, stopped) => {
    for (let size = 1; size <= text.length; size++) {
      expect(run(text, stops, size)).toEqual({ text: expected, stopped });
    }
  });

  it("holds back only what may be the beginning of a stop string", () => {
    const matcher = createStopMatcher(["###"]);
    expect(matcher.push("a#")).toEqual({ text: "a", stopped: false });
    expect(matcher.push("b##")).toEqual({ text: "#b", stopped: false });
    expect(matcher.push("")).toEqual({ text: "", stopped: false });
    expect(matcher.flush()).toBe("##");
    expect(matcher.push("###x")).toEqual({ text: "", stopped: true });
    expect(matcher.push("more")).toEqual({ text: "", stopped: true });
  });

  it("refuses empty stop strings and other types", () => {
    expect(() => createStopMatcher([""])).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    expect(() => createStopMatcher([1 as unknown as string])).toThrow(/expected a list of texts/);
    expect(() => createStopMatcher("x" as unknown as string[])).toThrow(/stop is "x"/);
  });
});
