import { describe, expect, it } from "vitest";
import type { MetadataValue } from "../formats/checkpoint.js";
import { type MemoryTensor, memoryCheckpoint } from "../formats/memory.js";
import { Hyperparameters } from "./hyperparameters.js";
import {
  divide,
  llama3Frequencies,
  longRopeMagnitude,
  plainFrequencies,
  readRope,
  yarnFrequencies,
  yarnMagnitude,
} from "./rope.js";

const QUESTION = { width: 8, style: "half", contextLength: 256, context: 256 } as const;

function read(
  format: "gguf" | "safetensors",
  metadata: Record<string, MetadataValue>,
  options: { tensors?: Record<string, MemoryTensor>; context?: number } = {},
) {
  const checkpoint = memoryCheckpoint(options.tensors ?? {}, {
    format,
    architecture: "llama",
    metadata: Object.entries(metadata),
  });
  const question = { ...QUESTION, context: options.context ?? QUESTION.context };
  return readRope(checkpoint, new Hyperparameters(checkpoint), question);
}

describe("frequencies", () => {
  it("falls from one radian per position by powers of the base", () => {
    expect([...plainFrequencies(8, 10000)]).toEqual([1, 10000 ** -0.25, 10000 ** -0.5, 10000 ** -0.75]);
  });

  it("divides by one factor or by each pair's own", () => {
    expect([...divide(Float64Array.of(1, 0.5), 4)]).toEqual([0.25, 0.125]);
    expect([...divide(Float64Array.of(1, 0.5), [1, 2])]).toEqual([1, 0.25]);
  });

  it("llama3 keeps short wavelengths, divides long ones, blends between and is monotone", () => {
    const scaling = { factor: 8, low: 1, high: 4, original: 8192 };
    const turns = (count: number) => (count * 2 * Math.PI) / 8192;
    const [fast, middle, slow] = llama3Frequencies(
      Float64Array.of(turns(4.001), turns(2.5), turns(0.999)),
      scaling,
    );
    expect(fast).toBe(turns(4.001));
    expect(middle).toBeCloseTo(0.5 * turns(2.5) + (0.5 * turns(2.5)) / 8, 12);
    expect(slow).toBe(turns(0.999) / 8);
    const all = llama3Frequencies(plainFrequencies(128, 500000), scaling);
    expect([...all]).toEqual([...all].sort((a, b) => b - a));
  });

  it("yarn keeps the pairs that turn often and divides those that do not finish a turn", () => {
    const plain = plainFrequencies(128, 10000);
    const scaled = yarnFrequencies(plain, { base: 10000, factor: 4, original: 4096, fast: 32, slow: 1 });
    // Pair i turns 4096 * frequency / 2 pi times: 32 times at i = 20.9, once at i = 45.03.
    expect([...scaled.subarray(0, 21)]).toEqual([...plain.subarray(0, 21)]);
    expect([...scaled.subarray(46)]).toEqual([...plain.subarray(46)].map((f) => f / 4));
    expect(scaled[33]).toBeCloseTo(plain[33]! * (1 - 13 / 26) + (plain[33]! / 4) * (13 / 26), 12);
  });

  it("magnitudes follow the papers and are 1 where nothing is stretched", () => {
    expect(yarnMagnitude(4)).toBeCloseTo(1.138629, 6);
    expect(yarnMagnitude(1)).toBe(1);
    // Phi-3 mini 128k: 131072 / 4096 = 32 times.
    expect(longRopeMagnitude(32, 4096)).toBeCloseTo(1.190238, 6);
    expect(longRopeMagnitude(1, 4096)).toBe(1);
  });
});

describe("reading", () => {
  it("plain: the base from either format, 10000 where none is stated", async () => {
    const expected = { frequencies: plainFrequencies(8, 500), magnitude: 1, style: "half" };
    expect(await read("gguf", { "llama.rope.freq_base": 500 })).toEqual(expected);
    expect(await read("safetensors", { rope_theta: 500 })).toEqual(expected);
    expect(await read("safetensors", { "rope_parameters.rope_theta": 500 })).toEqual(expected);
    expect((await read("gguf", {})).frequencies).toEqual(plainFrequencies(8, 10000));
  });

  it("linear: also by the old GGUF key, and with no type stated", async () => {
    const expected = divide(plainFrequencies(8, 10000), 4);
    for (const metadata of [
      { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4 },
      { "llama.rope.scaling.factor": 4 },
      { "llama.rope.scale_linear": 4 },
    ]) {
      expect((await read("gguf", metadata)).frequencies).toEqual(expected);
    }
    const scaling = { "rope_scaling.type": "linear", "rope_scaling.factor": 4 };
    expect((await read("safetensors", scaling)).frequencies).toEqual(expected);
    const none = { "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4 };
    expect((await read("gguf", none)).frequencies).toEqual(plainFrequencies(8, 10000));
  });

  it("longrope: short factors up to the original context, long ones past it, one magnitude for both", async () => {
    const short = [1, 1, 1.5, 2];
    const long = [1, 2, 4, 8];
    const metadata = {
      "rope_scaling.type": "su",
      "rope_scaling.short_factor": short,
      "rope_scaling.long_factor": long,
      original_max_position_embeddings: 64,
    };
    const tensors = {
      "rope_factors_short.weight": { shape: [4], data: Float32Array.from(short) },
      "rope_factors_long.weight": { shape: [4], data: Float32Array.from(long) },
    };
    const gguf = {
      "llama.rope.scaling.original_context_length": 64,
      "llama.rope.scaling.attn_factor": 1.125,
    };
    for (const [context, factors] of [
      [64, short],
      [65, long],
    ] as const) {
      const frequencies = divide(plainFrequencies(8, 10000), factors);
      const magnitude = Math.sqrt(1 + Math.log(4) / Math.log(64));
      expect(await read("safetensors", metadata, { context })).toEqual({
        frequencies,
        magnitude,
        style: "half",
      });
      expect(await read("gguf", gguf, { context, tensors })).toEqual({
        frequencies,
        magnitude: 1.125,
        style: "half",
      });
    }
  });

  it("yarn: factor from the contexts where it is not stated, attention factor where it is", async () => {
    const metadata = { "rope_scaling.type": "yarn", "rope_scaling.original_max_position_embeddings": 64 };
    expect((await read("safetensors", metadata)).magnitude).toBe(yarnMagnitude(4));
    const stated = { ...metadata, "rope_scaling.attention_factor": 1.5 };
    expect((await read("safetensors", stated)).magnitude).toBe(1.5);
  });

  it("refuses what it does not know, with the name", async () => {
    await expect(read("safetensors", { "rope_scaling.type": "dynamic" })).rejects.toMatchObject({
      code: "UNSUPPORTED_ARCHITECTURE",
      details: { scaling: "dynamic" },
    });
    await expect(read("safetensors", { "rope_scaling.type": "linear" })).rejects.toMatchObject({
      code: "MISSING_METADATA",
      details: { key: "rope_scaling.factor" },
    });
    const zeros = { "rope_freqs.weight": { shape: [4], data: new Float32Array(4) } };
    await expect(read("gguf", {}, { tensors: zeros })).rejects.toMatchObject({ code: "BAD_FORMAT" });
    const tensors = { "rope_freqs.weight": { shape: [3], data: new Float32Array(3) } };
    await expect(read("gguf", {}, { tensors })).rejects.toMatchObject({
      code: "BAD_SHAPE",
      details: { tensor: "rope_freqs.weight", got: 3, expected: 4 },
    });
  });
});
