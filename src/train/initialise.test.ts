import { describe, expect, it } from "vitest";
import { ggufVocabulary, VOCABULARY } from "../../test/support/tiny-vocabulary.js";
import { buildTape } from "../models/resolve.js";
import { resolveTokenizer } from "../tokenizer/resolve.js";
import { type DecoderShape, initialiseModel } from "./initialise.js";

const SHAPE: DecoderShape = {
  width: 64,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headWidth: 32,
  feedForward: 160,
  context: 256,
};

async function weights(checkpoint: ReturnType<typeof initialiseModel>, name: string): Promise<Float32Array> {
  const bytes = new Uint8Array(checkpoint.tensors.get(name)!.byteLength);
  await checkpoint.read(name, 0, bytes);
  return new Float32Array(bytes.buffer);
}

describe("initialiseModel", () => {
  it("is a model whose tape can be built, of the sizes asked for", async () => {
    const checkpoint = initialiseModel(SHAPE, ggufVocabulary(), { seed: 1 });
    const { config, tape } = await buildTape(checkpoint);
    expect(config).toMatchObject({
      numLayers: 3,
      embeddingWidth: 64,
      vocabularySize: VOCABULARY,
      contextLength: 256,
    });
    expect(tape.kv).toMatchObject(
      [0, 1, 2].map((layer) => ({ layer, numKvHeads: 2, headWidth: 32, window: null })),
    );
    expect(tape.logits.width).toBe(VOCABULARY);
    expect(resolveTokenizer(checkpoint.tokenizer)!.bosId).toBe(1);
    expect(checkpoint.tensors.has("output.weight")).toBe(false);
    const untied = initialiseModel({ ...SHAPE, tied: false }, ggufVocabulary(), { seed: 1 });
    expect((await buildTape(untied)).tape.weights.length).toBe(tape.weights.length + 1);
  });

  it("draws weights of the stated spread", async () => {
    const checkpoint = initialiseModel(SHAPE, ggufVocabulary(), { seed: 1 });
    const deviation = (values: Float32Array) =>
      Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    expect(deviation(await weights(checkpoint, "token_embd.weight"))).toBeCloseTo(1 / 8, 2);
    expect(deviation(await weights(checkpoint, "blk.2.ffn_gate.weight"))).toBeCloseTo(1 / 8, 2);
    expect(deviation(await weights(checkpoint, "blk.2.ffn_down.weight"))).toBeCloseTo(
      1 / Math.sqrt(160 * 6),
      2,
    );
    expect(new Set(await weights(checkpoint, "blk.0.attn_norm.weight"))).toEqual(new Set([1]));
  });

  it("depends on the seed alone", async () => {
    const draw = (seed: number) =>
      weights(initialiseModel(SHAPE, ggufVocabulary(), { seed }), "blk.1.attn_q.weight");
    expect(await draw(5)).toEqual(await draw(5));
    expect(await draw(5)).not.toEqual(await draw(6));
  });

  it("refuses sizes that make no decoder", () => {
    const refuse = (changes: Partial<DecoderShape>) =>
      expect(() => initialiseModel({ ...SHAPE, ...changes }, ggufVocabulary(), { seed: 1 })).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT" }),
      );
    refuse({ width: 0 });
    refuse({ layers: 1.5 });
    refuse({ kvHeads: 3 });
    refuse({ headWidth: 31 });
    refuse({ ropeBase: Number.NaN });
    refuse({ epsilon: -1 });
    expect(() => initialiseModel(SHAPE, {}, { seed: 1 })).toThrow("tokenizer.ggml.tokens");
    expect(() => initialiseModel(SHAPE, ggufVocabulary(), { seed: -1 })).toThrow("seed");
  });
});
