import { describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { logSoftmax, TapeRunner } from "../../test/support/run-tape.js";
import { type TinyName, tinyCheckpoint, tinyModel, tinyPrompt } from "../../test/support/tiny-models.js";
import { VOCABULARY } from "../../test/support/tiny-vocabulary.js";
import { createReference } from "../backends/reference/index.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { buildTape } from "../models/resolve.js";
import { type Batch, type MemoryMode, Network, type NetworkOptions } from "./network.js";

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

const DENSE = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "phi3-long"] as const;

describe("gradients of a whole network are those of finite differences", () => {
  it.each([...DENSE.map((name) => [name, "gguf"] as const), ["gemma3", "safetensors"] as const])(
    "%s (%s)",
    async (name, format) => {
      const sequences = name === "gemma3" ? 1 : SEQUENCES;
      using network = await openNetwork(name, { format, sequences });
      const batch = randomBatch(3, sequences);
      const gradients = await gradientsOf(network, batch);
      const random = new TestRandom(11);
      // Of many layers every fourth tensor; four is no multiple of a layer's, so that each kind comes up.
      const step = network.parameters.length > 40 ? 4 : 1;
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
          const [value] = await weight.values.read(at, 1);
          const h = 1e-5;
          const lossAt = async (x: number): Promise<number> => {
            await weight.values.write([x], at);
            return (await network.evaluate(batch)).loss;
          };
          const slope = ((await lossAt(value! + h)) - (await lossAt(value! - h))) / (2 * h);
          await weight.values.write([value!], at);
          const bound = 1e-6 * Math.max(1, Math.abs(gradient[steepest]!));
          expect(
            Math.abs(gradient[at]! - slope),
            `${parameter}[${at}]: ${gradient[at]}, ${slope}`,
          ).toBeLessThan(bound);
        }
      }
    },
  );
});

describe("the loss", () => {
  it.each(DENSE)("of %s is what inference says of the same tokens", async (name) => {
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
  ];

  it.each(["llama", "qwen2", "qwen3", "gemma3", "phi3"] as const)(
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

  it("cost less and less", async () => {
    const options = { sequences: 1, length: 256 };
    const bytes: number[] = [];
    for (const memory of ["keep", "recompute", { chunk: 32 }] as const) {
      using network = await openNetwork("llama", { ...options, memory });
      bytes.push(network.bytes.activations);
    }
    const [kept, recomputed, chunked] = bytes as [number, number, number];
    expect(recomputed).toBeLessThan(0.75 * kept);
    expect(chunked).toBeLessThan(0.6 * recomputed);
  });
});
