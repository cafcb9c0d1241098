import { describe, expect, it } from "vitest";
import { formatBytes, parseBytes } from "./bytes.js";

describe("parseBytes", () => {
  it.each([
    [0, 0],
    [1024, 1024],
    ["2 GiB", 2 * 2 ** 30],
    ["512MB", 512e6],
    ["512 mib", 512 * 2 ** 20],
    ["1.5g", 1.5 * 2 ** 30],
    [" 7 b ", 7],
    [".5k", 512],
    ["4096", 4096],
  ])("reads %j as %i bytes", (text, bytes) => {
    expect(parseBytes(text)).toBe(bytes);
  });

  it.each([
    "",
    "GiB",
    "2 gigs",
    "-1",
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    "1e400",
    "99999999 TiB",
    "1,5 GB",
  ])("refuses %j", (text) => {
    expect(() => parseBytes(text)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", details: { option: "memory", got: String(text) } }),
    );
  });
});

describe("formatBytes", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1536, "1.50 KiB"],
    [20 * 2 ** 20, "20.0 MiB"],
    [620 * 2 ** 20, "620 MiB"],
    [2 * 2 ** 30, "2.00 GiB"],
  ])("writes %i as %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});
