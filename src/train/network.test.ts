import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { logSoftmax, TapeRunner } from "../../test/support/run-tape.js";
import {
  DECODER_NAMES,
  type TinyName,
  tinyCheckpoint,
  tinyModel,
  tinyPrompt,
} from "../../test/support/tiny-models.js";
import { VOCABULARY } from "../../test/support/tiny-vocabulary.js";
import { createReference } from "../backends/reference/index.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import type { Matrix, TrainingArithmetic } from "../backends/training.js";
import { MillraceError } from "../errors.js";
import { blockFormat } from "../formats/blocks/index.js";
import type { Checkpoint } from "../formats/checkpoint.js";
import { type MemoryTensor, memoryCheckpoint } from "../formats/memory.js";
import { buildTape } from "../models/resolve.js";
import { columnsOf } from "./adapters/contract.js";
import { type Adapt, type MemoryMode, Network, type NetworkOptions, type Parameter } from "./network.js";
import type { Batch } from "./network-contract.js";

type Numbers = Float32Array | Float64Array;

// Longer than the window of 16 that some layers see.
const LENGTH = 19;
const SEQUENCES = 2;

/** Windows of seeded tokens; a few targets are absent, and losses weigh differently. */
function randomBatch(seed = 3, sequences = SEQUENCES, length = LENGTH): Batch {
  const random = new TestRandom(seed);
  const rows = sequences * length;
  const tokens = Int32Array.from({ length: rows }, () => random.below(VOCABULARY));
  const targets = Int32Array.from({ length: rows }, (_, i) => (i % 7 === 3 ? -1 : random.below(VOCABULARY)));
  const weights = Float32Array.from({ length: rows }, (_, i) => [1, 0.5, 2][i % 3]!);
  return { tokens, targets, weights };
}

async function openNetwork(
  name: TinyName,
  options: Partial<NetworkOptions> & { format?: "gguf" | "safetensors" } = {},
): Promise<Network> {
  const { format = "gguf", ...rest } = options;
  const checkpoint = tinyCheckpoint(tinyModel(name), format);
  const { tape } = await buildTape(checkpoint);
  return Network.create(createReferenceTraining(), tape, checkpoint, {
    sequences: SEQUENCES,
    length: LENGTH,
    ...rest,
  });
}

/** All gradients of one batch, by parameter. */
async function gradientsOf(network: Network, batch: Batch): Promise<Map<string, Numbers>> {
  await network.accumulate(batch, 1);
  const gradients = new Map<string, Numbers>();
  for (const { name, gradient } of network.parameters) gradients.set(name, await gradient!.values.read());
  return gradients;
}

function largestDifference(a: Numbers, b: Numbers): number {
  let off = 0;
  a.forEach((value: number, i: number) => {
    off = Math.max(off, Math.abs(value - b[i]!));
  });
  return off;
}

/** Central difference of the batch's loss by element `at` of a parameter. */
async function slopeAt(network: Network, batch: Batch, { values }: Matrix, at: number): Promise<number> {
  const [value] = await values.read(at, 1);
  const h = 1e-5;
  const lossAt = async (x: number): Promise<number> => {
    await values.write([x], at);
    return (await network.evaluate(batch)).loss;
  };
  const slope = ((await lossAt(value! + h)) - (await lossAt(value! - h))) / (2 * h);
  await values.write([value!], at);
  return slope;
}

describe("gradients of a whole network are those of finite differences", () => {
  it.each([
    ["llama", "gguf"],
    ["qwen2", "gguf"],
    ["qwen3", "gguf"],
    ["gemma3", "safetensors"],
    ["phi3-long", "gguf"],
    ["mixtral", "gguf"],
    ["mixtral", "safetensors"],
    ["qwen3moe", "gguf"],
    ["qwen3moe", "safetensors"],
  ] as const)("%s (%s)", async (name, format) => {
    const sequences = name === "llama" ? SEQUENCES : 1;
    using network = await openNetwork(name, { format, sequences });
    const batch = randomBatch(3, sequences);
    const gradients = await gradientsOf(network, batch);
    const random = new TestRandom(11);
    // Of seven layers every eighth tensor, out of step with the thirteen of a layer, so that each kind comes up.
    const step = network.parameters.length > 40 ? 8 : 1;
    for (const { name: parameter, weight, rows, columns } of network.parameters.filter(
      (_, i) => i % step === 0,
    )) {
      const gradient: Numbers = gradients.get(parameter)!;
      // The steepest element, so that no tensor passes by being flat, and one drawn.
      let steepest = 0;
      gradient.forEach((g, i) => {
        if (Math.abs(g) > Math.abs(gradient[steepest]!)) steepest = i;
      });
      for (const at of [steepest, random.below(rows * columns)]) {
        const slope = await slopeAt(network, batch, weight, at);
        const bound = 1e-6 * Math.max(1, Math.abs(gradient[steepest]!));
        expect(
          Math.abs(gradient[at]! - slope),
          `${parameter}[${at}]: ${gradient[at]}, ${slope}`,
        ).toBeLessThan(bound);
      }
    }
  });
});

describe("the loss", () => {
  it.each(DECODER_NAMES)("of %s is what inference says of the same tokens", async (name) => {
    using network = await openNetwork(name, { sequences: 1, length: 40 });
    const ids = tinyPrompt(41);
    const tokens = Int32Array.from(ids.slice(0, -1));
    const targets = Int32Array.from(ids.slice(1));
    const { loss, weight } = await network.evaluate({ tokens, targets });
    using runner = await TapeRunner.open(createReference(), tinyCheckpoint(tinyModel(name), "gguf"));
    const logits = await runner.evaluate(ids.slice(0, -1));
    const want = logits.reduce((sum, row, i) => sum - logSoftmax(row)[ids[i + 1]!]!, 0);
    expect(weight).toBe(40);
    expect(Math.abs(loss - want)).toBeLessThan(1e-4 * want);
  });
});

describe("ways of spending memory", () => {
  // 5 does not divide the length; 1 is the least; the last is longer than a sequence.
  const modes: readonly MemoryMode[] = [
    "recompute",
    { chunk: 5 },
    { chunk: 1 },
    { chunk: 16 },
    { chunk: 100 },
    { chunk: 5, every: 2 },
    { chunk: 16, every: 3 },
  ];

  it.each(["llama", "qwen2", "qwen3", "gemma3", "phi3", "mixtral", "qwen3moe"] as const)(
    "give the gradients of %s",
    async (name) => {
      const batch = randomBatch();
      using plain = await openNetwork(name);
      const want: ReadonlyMap<string, Numbers> = await gradientsOf(plain, batch);
      const { loss } = await plain.evaluate(batch);
      for (const memory of modes) {
        using network = await openNetwork(name, { memory });
        const got = await gradientsOf(network, batch);
        for (const [parameter, gradient] of want) {
          let [size, off] = [1, 0];
          gradient.forEach((g, i) => {
            size = Math.max(size, Math.abs(g));
            off = Math.max(off, Math.abs(g - got.get(parameter)![i]!));
          });
          expect(off, `${parameter} ${JSON.stringify(memory)}`).toBeLessThan(1e-11 * size);
        }
        expect(Math.abs((await network.evaluate(batch)).loss - loss)).toBeLessThan(1e-10 * loss);
      }
    },
  );

  it("cost less where the stream stays at fewer layers' bounds", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("gemma3"), "gguf");
    const { tape } = await buildTape(checkpoint);
    const length = 4096;
    const bytesOf = async (every: number): Promise<number> => {
      const memory = { chunk: 64, every };
      return (await Network.plan(tape, checkpoint, { sequences: 1, length, memory })).activations;
    };
    // Of seven layers eight streams, the last of which becomes the gradient; then two bounds, two between, the gradient.
    const stream = 4 * length * 64;
    expect(((await bytesOf(1)) - (await bytesOf(3))) / stream).toBeCloseTo(3, 1);
  });

  it("cost less and less", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const { tape } = await buildTape(checkpoint);
    const bytesOf = async (memory: MemoryMode): Promise<number> => {
      const plan = await Network.plan(tape, checkpoint, { sequences: 1, length: 8192, memory });
      return plan.activations;
    };
    const kept = await bytesOf("keep");
    const recomputed = await bytesOf("recompute");
    const chunked = await bytesOf({ chunk: 256 });
    expect(kept / recomputed).toBeGreaterThan(1.5);
    expect(recomputed / chunked).toBeGreaterThan(2.8);
    // What is left is the stream at the bounds of two layers, keys, values and their gradients, and a chunk's share.
    const [width, keys] = [64, 32];
    expect(chunked).toBeLessThan(1.15 * 4 * 8192 * (3 * width + 4 * keys));
  });
});

describe("frozen tensors", () => {
  /** The tiny model with its matrices stored as Q8_0, and the same numbers as F32. */
  function quantised(name: TinyName): { stored: Checkpoint; decoded: Checkpoint } {
    const model = tinyModel(name);
    const pairs = Object.entries(model.tensors).map(([tensor, { shape, data }]) => {
      if (shape.length === 1) return [tensor, { shape, data }, { shape, data }] as const;
      const bytes = new Uint8Array((data.length / 32) * 34);
      blockFormat("Q8_0").encode(data, bytes);
      const values = new Float32Array(data.length);
      blockFormat("Q8_0").decode(bytes, values);
      return [tensor, { shape, type: "Q8_0" as const, data: bytes }, { shape, data: values }] as const;
    });
    const { architecture, metadata } = tinyCheckpoint(model, "gguf");
    const make = (tensors: Readonly<Record<string, MemoryTensor>>): Checkpoint =>
      memoryCheckpoint(tensors, { format: "gguf", architecture, metadata });
    return {
      stored: make(Object.fromEntries(pairs.map(([tensor, stored]) => [tensor, stored]))),
      decoded: make(Object.fromEntries(pairs.map(([tensor, , plain]) => [tensor, plain]))),
    };
  }

  it.each(["llama", "gemma3", "phi3", "mixtral"] as const)(
    "stay stored, and %s's others get the same gradients",
    async (name) => {
      const { stored, decoded } = quantised(name);
      const { tape } = await buildTape(stored);
      const trainable = (tensor: string): boolean => /norm|blk\.1\.(attn_q|ffn)/.test(tensor);
      const shape = { sequences: SEQUENCES, length: LENGTH, memory: { chunk: 8 } } as const;
      using frozen = await Network.create(createReferenceTraining(), tape, stored, { ...shape, trainable });
      const plainTape = (await buildTape(decoded)).tape;
      using plain = await Network.create(createReferenceTraining(), plainTape, decoded, shape);
      expect(frozen.parameters.map(({ name: tensor }) => tensor)).toEqual(
        plain.parameters.map(({ name: tensor }) => tensor).filter(trainable),
      );
      expect(frozen.bytes.weights).toBeLessThan(0.6 * plain.bytes.weights);
      const batch = randomBatch();
      const [got, want]: ReadonlyMap<string, Numbers>[] = [
        await gradientsOf(frozen, batch),
        await gradientsOf(plain, batch),
      ];
      for (const [tensor, gradient] of got!) {
        gradient.forEach((g, i) => {
          expect(Math.abs(g - want!.get(tensor)![i]!), `${tensor}[${i}]`).toBeLessThan(1e-9);
        });
      }
    },
  );

  it("end the backward pass where nothing before them trains", async () => {
    const arithmetic = createReferenceTraining();
    const calls = { attention: 0, attentionBackward: 0, embedBackward: 0 };
    const counting = new Proxy(arithmetic, {
      get(target, key) {
        if (key in calls) calls[key as keyof typeof calls]++;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const checkpoint = tinyCheckpoint(tinyModel("gemma3"), "gguf");
    const { tape } = await buildTape(checkpoint);
    using network = await Network.create(counting, tape, checkpoint, {
      sequences: SEQUENCES,
      length: LENGTH,
      trainable: (tensor) => tensor.startsWith("blk.5.ffn"),
    });
    await network.accumulate(randomBatch(), 1);
    expect(calls).toEqual({ attention: 7, attentionBackward: 1, embedBackward: 0 });
  });
});

describe("adapters", () => {
  /** y += 0.5 B A x beside one kind of matrix, with parameters in plain sight. */
  function lowRank(arithmetic: TrainingArithmetic, beside: RegExp): Adapt {
    return ({ tensor, rowStart, rows, columns }) => {
      if (!beside.test(tensor)) return null;
      const rank = 2;
      const make = (part: string, r: number, c: number): Parameter => {
        const all = (): Matrix => ({
          values: arithmetic.allocate(r * c),
          at: 0,
          rows: r,
          columns: c,
          stride: c,
        });
        const weight = all();
        arithmetic.addNormal(weight, 7 + rowStart + r, 0.3, 0);
        const name = `${tensor}.${rowStart}.${part}`;
        return { name, rows: r, columns: c, kind: "matrix", weight, gradient: all(), add: 0 };
      };
      const [a, b] = [make("a", rank, columns), make("b", rows, rank)];
      const halves = (scratch: Matrix): [Matrix, Matrix] => [
        columnsOf(scratch, 0, rank),
        columnsOf(scratch, rank, rank),
      ];
      const down = (x: Matrix, h: Matrix): void => arithmetic.multiply(x, a.weight, h, { transposeB: true });
      return {
        parameters: [a, b],
        scratchWidth: 2 * rank,
        forward(x, out, scratch) {
          const [h] = halves(scratch!);
          down(x, h);
          arithmetic.multiply(h, b.weight, out, { transposeB: true, alpha: 0.5, accumulate: true });
        },
        backward(x, dOut, dX, scratch) {
          const [h, dH] = halves(scratch!);
          down(x, h);
          const add = { transposeA: true, accumulate: true };
          arithmetic.multiply(dOut, h, b.gradient!, { ...add, alpha: 0.5 });
          arithmetic.multiply(dOut, b.weight, dH, { alpha: 0.5 });
          arithmetic.multiply(dH, x, a.gradient!, add);
          if (dX) arithmetic.multiply(dH, a.weight, dX, { accumulate: true });
        },
      };
    };
  }

  it.each([
    ["llama", /attn_q|ffn_down/, "keep"],
    ["phi3", /attn_qkv/, "recompute"],
    ["qwen3", /blk\.0\.attn_(k|output)/, { chunk: 6 }],
  ] as const)("train beside a frozen %s", async (name, beside, memory) => {
    const arithmetic = createReferenceTraining();
    const checkpoint = tinyCheckpoint(tinyModel(name), "gguf");
    const { tape } = await buildTape(checkpoint);
    using network = await Network.create(arithmetic, tape, checkpoint, {
      sequences: SEQUENCES,
      length: LENGTH,
      memory,
      trainable: () => false,
      adapt: lowRank(arithmetic, beside),
    });
    expect(network.parameters.length).toBeGreaterThan(1);
    const batch = randomBatch();
    const gradients: ReadonlyMap<string, Numbers> = await gradientsOf(network, batch);
    for (const { name: parameter, weight } of network.parameters) {
      const slope = await slopeAt(network, batch, weight, 3);
      expect(Math.abs(gradients.get(parameter)![3]! - slope), parameter).toBeLessThan(
        1e-6 * Math.max(1, Math.abs(slope)),
      );
    }
  });
});

describe("a network", () => {
  it("adds scaled gradients, zeroes them, and sums weighted losses", async () => {
    using network = await openNetwork("llama");
    const batch = randomBatch();
    const once: ReadonlyMap<string, Numbers> = await gradientsOf(network, batch);
    const { loss, weight } = await network.accumulate(batch, 0.5);
    const evaluated = await network.evaluate(batch);
    expect(Math.abs(loss - evaluated.loss)).toBeLessThan(1e-9 * loss);
    const want = [...batch.targets].reduce((sum, id, i) => sum + (id < 0 ? 0 : batch.weights![i]!), 0);
    expect([weight, evaluated.weight]).toEqual([want, want]);
    for (const { name, gradient } of network.parameters) {
      const sum: Numbers = await gradient!.values.read();
      expect(
        largestDifference(
          sum,
          once.get(name)!.map((g) => 1.5 * g),
        ),
      ).toBeLessThan(1e-9);
    }
    network.zeroGradients();
    for (const { gradient } of network.parameters) {
      expect((await gradient!.values.read()).every((g: number) => g === 0)).toBe(true);
    }
  });

  it("knows its parameters: a tied embedding once, vectors with what was added to them", async () => {
    using tied = await openNetwork("qwen2");
    const embeddings = tied.parameters.filter(({ kind }) => kind === "embedding");
    expect(embeddings.map(({ name }) => name)).toEqual(["token_embd.weight"]);
    using apart = await openNetwork("llama");
    const names = apart.parameters.filter(({ kind }) => kind === "embedding").map(({ name }) => name);
    expect(names).toEqual(["token_embd.weight", "output.weight"]);
    expect(new Set(apart.parameters.map(({ name }) => name)).size).toBe(apart.parameters.length);
    using gemma = await openNetwork("gemma3", { format: "safetensors", sequences: 1, length: 2 });
    expect(gemma.parameters.filter(({ kind }) => kind === "vector").map(({ add }) => add)).toContain(1);
  });

  it("without gradients only evaluates, in less memory", async () => {
    using full = await openNetwork("llama");
    using bare = await openNetwork("llama", { gradients: false });
    const batch = randomBatch();
    expect(await bare.evaluate(batch)).toEqual(await full.evaluate(batch));
    expect(bare.bytes.gradients).toBe(0);
    expect(full.bytes.gradients).toBe(full.bytes.weights);
    expect(bare.bytes.activations).toBeLessThan(full.bytes.activations / 2);
    await expect(bare.accumulate(batch, 1)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  it("gives all its memory back", async () => {
    const arithmetic = createReferenceTraining();
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const { tape } = await buildTape(checkpoint);
    const network = await Network.create(arithmetic, tape, checkpoint, { sequences: 1, length: 8 });
    const { weights, gradients, activations, batch } = network.bytes;
    expect(weights + gradients + activations + batch).toBe(arithmetic.bytes.current);
    network.dispose();
    network.dispose();
    expect(arithmetic.bytes.current).toBe(0);
  });

  it("is planned to the byte before anything is read", async () => {
    const { read: _, ...rest } = tinyCheckpoint(tinyModel("gemma3"), "gguf");
    const unread = { ...rest, read: () => Promise.reject(new Error("read")) };
    const { tape } = await buildTape(tinyCheckpoint(tinyModel("gemma3"), "gguf"));
    const options = {
      sequences: 1,
      length: 40,
      memory: { chunk: 16 },
      trainable: (name: string) => name.startsWith("blk.3"),
    } as const;
    const planned = await Network.plan(tape, unread, options);
    const arithmetic = createReferenceTraining({ precision: "f32" });
    using network = await Network.create(
      arithmetic,
      tape,
      tinyCheckpoint(tinyModel("gemma3"), "gguf"),
      options,
    );
    expect(planned).toEqual(network.bytes);
  });

  it("leaves nothing allocated where the machine refuses", async () => {
    const checkpoint = tinyCheckpoint(tinyModel("llama"), "gguf");
    const { tape } = await buildTape(checkpoint);
    const options = { sequences: 1, length: 8 };
    for (let allowed = 0; allowed < 60; allowed++) {
      const arithmetic = createReferenceTraining();
      let left = allowed;
      const refusing = new Proxy(arithmetic, {
        get(target, key) {
          const value: unknown = Reflect.get(target, key, target);
          if (typeof value !== "function") return value;
          if (typeof key === "string" && key.startsWith("allocate") && left-- <= 0) {
            return () => {
              throw new MillraceError("OUT_OF_BUDGET", "refused");
            };
          }
          return value.bind(target);
        },
      });
      const made = Network.create(refusing, tape, checkpoint, options);
      const failed = await made.then(
        (network) => network.dispose(),
        (error: unknown) => error,
      );
      expect(arithmetic.bytes.current).toBe(0);
      if (failed === undefined) {
        expect(allowed).toBeGreaterThan(40);
        return;
      }
      expect(failed).toMatchObject({ code: "OUT_OF_BUDGET" });
    }
    throw new Error("Never enough.");
  });

  it("refuses what makes no network or no batch", async () => {
    const refused = { code: "INVALID_ARGUMENT" };
    await expect(openNetwork("llama", { sequences: 0 })).rejects.toMatchObject(refused);
    await expect(openNetwork("llama", { length: 1.5 })).rejects.toMatchObject(refused);
    await expect(openNetwork("llama", { memory: { chunk: 0 } })).rejects.toMatchObject(refused);
    await expect(openNetwork("llama", { memory: { chunk: 4, every: 0 } })).rejects.toMatchObject(refused);
    using network = await openNetwork("llama", { sequences: 1, length: 4 });
    const batch = (over: Partial<Batch>): Batch => ({
      tokens: new Int32Array(4),
      targets: new Int32Array(4),
      ...over,
    });
    await expect(network.evaluate(batch({ tokens: new Int32Array(3) }))).rejects.toMatchObject(refused);
    await expect(network.evaluate(batch({ weights: new Float32Array(5) }))).rejects.toMatchObject(refused);
    await expect(network.accumulate(batch({}), 0)).rejects.toMatchObject(refused);
    const outside = { code: "INVALID_TOKEN" };
    const tokens = Int32Array.of(0, 0, VOCABULARY, 0);
    await expect(network.evaluate(batch({ tokens }))).rejects.toMatchObject(outside);
    await expect(network.evaluate(batch({ targets: Int32Array.of(0, -2, 0, 0) }))).rejects.toMatchObject(
      outside,
    );
  });
});
