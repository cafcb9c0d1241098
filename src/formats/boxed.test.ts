import { existsSync } from "node:fs";
import { basename } from "node:path";
import { describe, expect, it } from "vitest";
import { BOXED_MODELS, boxedModelPath, DEFAULT_MODEL } from "./boxed.js";

describe("models in the box", () => {
  it("are there, under their names", () => {
    for (const name of BOXED_MODELS) {
      const path = boxedModelPath(`boxed:${name}`)!;
      expect(basename(path)).toBe(`${name}.gguf`);
      expect(existsSync(path)).toBe(true);
    }
    expect(boxedModelPath(DEFAULT_MODEL)).toMatch(/harbour\.gguf$/);
  });

  it("leave other sources alone, and refuse names that the box does not hold", () => {
    expect(boxedModelPath("model.gguf")).toBeNull();
    expect(boxedModelPath("hf:owner/repo")).toBeNull();
    expect(() => boxedModelPath("boxed:../package")).toThrow(
      expect.objectContaining({
        code: "INVALID_ARGUMENT",
        message: expect.stringContaining('"boxed:harbour-small"'),
      }),
    );
  });
});
