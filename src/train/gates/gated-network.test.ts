import { afterAll, describe, expect, it } from "vitest";
import { TestRandom } from "../../../test/support/random.js";
import { type TinyName, tinyCheckpoint, tinyModel } from "../../../test/support/tiny-models.js";
import { VOCABULARY } from "../../../test/support/tiny-vocabulary.js";
import type { Backend } from "../../backends/contract.js";
import { createReferenceTraining } from "../../backends/reference/training.js";
import { createBackend } from "../../backends/resolve.js";
import type { TrainingArithmetic } from "../../backends/training.js";
import { buildTape } from "../../models/resolve.js";
import type { MemoryMode } from "../network.js";
import type { Batch } from "../network-contract.js";
import { GatedNetwork, type GatedOptions } from "./gated-network.js";

// Longer than what streaming heads see, and than the window of 16 that some layers have.
const LENGTH = 23;
const SEQUENCES = 2;
const PRESSURE = 0.05;
const STREAMING = { sinks: 2, recent: 5 };

/** Answers at some tokens, which weigh differently. */
function randomBatch(): Batch {
  const random = new TestRandom(3);
  const rows = SEQUENCES * LENGTH;
  const tokens = Int32Array.from({ length: rows }, () => random.below(VOCABULARY));
  const targets = Int32Array.from({ length: rows }, (_, i) => (i % 4 === 3 ? random.below(VOCABULARY) : -1));
  const weights = Float32Array.from({ length: rows }, (_, i) => [1, 0.5, 2][i % 3]!);
  return { tokens, targets, weights };
}

async function openNetwork(
  name: TinyName,
  options: Partial<GatedOptions> = {},
  arithmetic: TrainingArithmetic = createReferenceTraining(),
): Promise<GatedNetwork> {
  const checkpoint = tinyCheckpoint(tinyModel(name), "gguf");
  const { tape } = await buildTape(checkpoint);
  const shape = { sequences: SEQUENCES, length: LENGTH, pressure: PRESSURE, ...STREAMING };
  return GatedNetwork.create(arithmetic, tape, checkpoint, { ...shape, ...options });
}

/** Sets every gate, drawn from 0.1 to 0.9 unless told. */
async function setGates(network: GatedNetwork, value?: number): Promise<void> {
  const random = new TestRandom(7);
  for (const { weight } of network.parameters) {
    const gates = Array.from({ length: weight.columns }, () => value ?? 0.5 + 0.4 * random.floats(1)[0]!);
    await weight.values.write(gates, weight.at);
  }
}

async function gradientsOf(network: GatedNetwork, batch: Batch): Promise<number[][]> {
  network.zeroGradients();
  await network.accumulate(batch, 1);
  const gradients: number[][] = [];
  for (const { gradient } of network.parameters) {
    gradients.push([...(await gradient!.values.read(gradient!.at, gradient!.columns))]);
  }
  return gradients;
}

describe("a gated network", () => {
  it("loses nothing but the pressure while its gates are open", async () => {
    const network = await openNetwork("llama");
    const { loss, weight } = await network.evaluate(randomBatch());
    expect(loss / weight).toBeCloseTo(PRESSURE, 14);
    await setGates(network, 3);
    expect((await network.evaluate(randomBatch())).loss).toBe(loss);
    for (const { weight: gates } of network.parameters) {
      expect([...(await gates.values.read(gates.at, gates.columns))]).toEqual([1, 1]);
    }
    await setGates(network, 0.5);
    const half = await network.evaluate(randomBatch());
    expect(half.loss / half.weight).toBeGreaterThan(PRESSURE);
    network.dispose();
  });

  it("loses nothing with its gates shut where streaming heads see the whole text", async () => {
    for (const streaming of [
      { sinks: 0, recent: LENGTH },
      { sinks: LENGTH - 5, recent: 5 },
    ]) {
      const network = await openNetwork("llama", streaming);
      await setGates(network, 0);
      expect((await network.evaluate(randomBatch())).loss).toBeLessThan(1e-20);
      network.dispose();
    }
  });

  it.each(["llama", "qwen3", "gemma3", "mistral", "mixtral"] as const)(
    "has the gradients of finite differences: %s",
    async (name) => {
      const network = await openNetwork(name);
      await setGates(network);
      const batch = randomBatch();
      const gradients = await gradientsOf(network, batch);
      expect(gradients.flat().some((gradient) => Math.abs(gradient) > 1e-3)).toBe(true);
      // Of seven layers every third.
      const step = network.parameters.length > 4 ? 3 : 1;
      for (const [layer, { weight }] of network.parameters.entries()) {
        if (layer % step !== 0) continue;
        for (const [head, gradient] of gradients[layer]!.entries()) {
          const place = weight.at + head;
          const [value] = await weight.values.read(place, 1);
          const lossAt = async (gate: number): Promise<number> => {
            await weight.values.write([gate], place);
            return (await network.evaluate(batch)).loss;
          };
          const h = 1e-5;
          const slope = ((await lossAt(value! + h)) - (await lossAt(value! - h))) / (2 * h);
          await weight.values.write([value!], place);
          expect(Math.abs(gradient - slope), `${layer}.${head}: ${gradient}, ${slope}`).toBeLessThan(
            1e-6 * Math.max(1, Math.abs(slope)),
          );
        }
      }
      network.dispose();
    },
  );

  it("has the same gradients however memory is spent", async () => {
    const modes: readonly MemoryMode[] = ["recompute", { chunk: 5 }, { chunk: 16, every: 2 }];
    for (const name of ["llama", "gemma3"] as const) {
      const plain = await openNetwork(name);
      await setGates(plain);
      const want = (await gradientsOf(plain, randomBatch())).flat();
      plain.dispose();
      const most = Math.max(...want.map(Math.abs));
      for (const memory of modes) {
        const network = await openNetwork(name, { memory });
        await setGates(network);
        const got = (await gradientsOf(network, randomBatch())).flat();
        for (const [i, gradient] of got.entries()) {
          expect(Math.abs(gradient - want[i]!)).toBeLessThan(1e-11 * Math.max(1, most));
        }
        network.dispose();
      }
    }
  });

  it("gives all its memory back, also where it cannot be made", async () => {
    const arithmetic = createReferenceTraining();
    (await openNetwork("llama", {}, arithmetic)).dispose();
    await expect(openNetwork("llama", { length: 0 }, arithmetic)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    expect(arithmetic.bytes.current).toBe(0);
  });
});

describe.each(["native", "wasm"] as const)("a gated network on %s", (backendName) => {
  let backend: Backend | null = null;
  afterAll(() => backend?.dispose());

  it("is that of the reference", async () => {
    ({ backend } = await createBackend(backendName, { threads: 2 }));
    for (const name of ["llama", "gemma3"] as const) {
      const plain = await openNetwork(name);
      const compiled = await openNetwork(name, { memory: { chunk: 16 } }, backend.training!());
      for (const network of [plain, compiled]) await setGates(network);
      const [want, got] = [
        await gradientsOf(plain, randomBatch()),
        await gradientsOf(compiled, randomBatch()),
      ];
      const most = Math.max(...want.flat().map(Math.abs));
      for (const [i, gradient] of got.flat().entries()) {
        expect(Math.abs(gradient - want.flat()[i]!)).toBeLessThan(2e-4 * most);
      }
      for (const network of [plain, compiled]) network.dispose();
    }
  });
});
