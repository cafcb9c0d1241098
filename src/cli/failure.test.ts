import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from "vitest";
import { MillraceError } from "../errors.js";
import { report } from "./failure.js";

describe("a failure", () => {
  let stderr: MockInstance<typeof process.stderr.write>;
  let stdout: MockInstance<typeof process.stdout.write>;
  beforeEach(() => {
    stderr = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    stdout = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  });
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = undefined;
  });
  const written = (stream: MockInstance) => stream.mock.calls.map(([text]) => String(text)).join("");

  it("that is no MillraceError comes with its stack and a request to report it, and ends with 10", () => {
    report(new TypeError("x is not a function"), true);
    expect(written(stderr)).toMatch(
      /^millrace: INTERNAL: x is not a function\nTypeError: x is not a function\n {4}at .*\nThis is a bug in Millrace\. Please report it/s,
    );
    expect(JSON.parse(written(stdout)).error).toMatchObject({
      code: "INTERNAL",
      message: "x is not a function",
    });
    expect(process.exitCode).toBe(10);
  });

  it("that is expected is one line, without control characters of what it quotes", () => {
    report(new MillraceError("FILE_NOT_FOUND", "Cannot open \u001b[2J.gguf."), false);
    expect(written(stderr)).toBe("millrace: FILE_NOT_FOUND: Cannot open \ufffd[2J.gguf.\n");
    expect(written(stdout)).toBe("");
    expect(process.exitCode).toBe(3);
  });
});
