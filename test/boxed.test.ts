/** The models in the box, on every backend: the same answers to what their log has told. */
import { describe, expect, it } from "vitest";
import { createBackend } from "../src/backends/resolve.js";
import { MillraceError } from "../src/errors.js";
import { heldOutQuestions } from "../src/evaluate/world-stream.js";
import { BOXED_MODELS, boxedModelPath } from "../src/formats/boxed.js";
import { openCheckpoint } from "../src/formats/open.js";
import { resolveTokenizer } from "../src/tokenizer/resolve.js";
import { openLocal } from "./support/open-local.js";

const compiled: ("native" | "wasm")[] = [];
for (const name of ["native", "wasm"] as const) {
  try {
    await (await createBackend(name, { threads: 1 })).backend.dispose();
    compiled.push(name);
  } catch (error) {
    if (!(error instanceof MillraceError && error.code === "BACKEND_UNAVAILABLE")) throw error;
    it.skip(`${name}: ${error.message}`, () => {});
  }
}

describe.each(BOXED_MODELS)("%s", (box) => {
  const path = boxedModelPath(`boxed:${box}`)!;

  it("answers the same on reference and on every backend that runs here", async () => {
    await using checkpoint = await openCheckpoint(path);
    const tokenizer = resolveTokenizer(checkpoint.tokenizer)!;
    const questions = heldOutQuestions(tokenizer, { count: 3, within: 100, promptTokens: 192, seed: 5 });
    const answers = async (backend: "reference" | "native" | "wasm") => {
      await using model = await openLocal({ backend, context: 256 }, path);
      const said: string[] = [];
      for (const { prompt } of questions) {
        const { text } = await model.generate(prompt, { maxTokens: 8, temperature: 0 }).result;
        said.push(text);
      }
      return said;
    };
    const expected = await answers("reference");
    expect(expected.every((text) => text.length > 1)).toBe(true);
    for (const backend of compiled) expect([backend, await answers(backend)]).toEqual([backend, expected]);
  });
});
