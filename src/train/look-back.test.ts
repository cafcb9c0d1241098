import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { ggufVocabulary, VOCABULARY } from "../../test/support/tiny-vocabulary.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { buildTape } from "../models/resolve.js";
import { type DecoderShape, initialiseModel } from "./initialise.js";
import { Network } from "./network.js";

const SHAPE: DecoderShape = { width: 128, layers: 2, heads: 4, kvHeads: 2, feedForward: 64, context: 64 };
const LENGTH = 32;

/** Mean loss of a fresh model on random tokens that stand there for the second time. */
async function lossOfRepeats(lookBack: boolean): Promise<number> {
  const model = initialiseModel(SHAPE, ggufVocabulary(), { seed: 3, lookBack });
  const { tape } = await buildTape(model);
  const sequences = 4;
  using network = await Network.create(createReferenceTraining({ precision: "f32" }), tape, model, {
    sequences,
    length: LENGTH,
    gradients: false,
  });
  const random = new TestRandom(5);
  const tokens = new Int32Array(sequences * LENGTH);
  const targets = new Int32Array(tokens.length).fill(-1);
  for (let row = 0; row < tokens.length; row++) {
    const t = row % LENGTH;
    tokens[row] = t < LENGTH / 2 ? random.below(VOCABULARY) : tokens[row - LENGTH / 2]!;
    // The first repeated token can only be guessed.
    if (t > LENGTH / 2) targets[row - 1] = tokens[row]!;
  }
  const { loss, weight } = await network.evaluate({ tokens, targets });
  return loss / weight;
}

describe("wireLookBack", () => {
  it("continues what stood there before, without any training", async () => {
    const guess = await lossOfRepeats(false);
    expect(guess).toBeGreaterThan(Math.log(VOCABULARY) - 0.5);
    expect(await lossOfRepeats(true)).toBeLessThan(guess - 2);
  });

  it("refuses shapes without room for two such layers and heads", () => {
    for (const [name, value] of [
      ["layers", 1],
      ["kvHeads", 1],
    ] as const) {
      expect(() =>
        initialiseModel({ ...SHAPE, [name]: value }, ggufVocabulary(), { seed: 1, lookBack: true }),
      ).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT", details: expect.objectContaining({ name }) }),
      );
    }
  });
});
