/** Networks on the compiled backends, held to the reference in double precision. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TestRandom } from "../../test/support/random.js";
import { DECODER_NAMES, type TinyName, tinyCheckpoint, tinyModel } from "../../test/support/tiny-models.js";
import { VOCABULARY } from "../../test/support/tiny-vocabulary.js";
import type { Backend } from "../backends/contract.js";
import { createReferenceTraining } from "../backends/reference/training.js";
import { createBackend } from "../backends/resolve.js";
import type { TrainingArithmetic } from "../backends/training.js";
import { buildTape } from "../models/resolve.js";
import { Network, type NetworkOptions } from "./network.js";
import type { Batch } from "./network-contract.js";

type Numbers = Float32Array | Float64Array;

const SHAPE = { sequences: 2, length: 37 } as const;

const random = new TestRandom(8);
const rows = SHAPE.sequences * SHAPE.length;
const BATCH: Batch = {
  tokens: Int32Array.from({ length: rows }, () => random.below(VOCABULARY)),
  targets: Int32Array.from({ length: rows }, (_, i) => (i % 9 === 4 ? -1 : random.below(VOCABULARY))),
};

interface Result {
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Numbers>;
}

async function train(
  arithmetic: TrainingArithmetic,
  name: TinyName,
  options: Partial<NetworkOptions> = {},
): Promise<Result> {
  const checkpoint = tinyCheckpoint(tinyModel(name), "gguf");
  const { tape } = await buildTape(checkpoint);
  using network = await Network.create(arithmetic, tape, checkpoint, { ...SHAPE, ...options });
  const { loss, weight } = await network.accumulate(BATCH, 1 / 64);
  expect(weight).toBe(BATCH.targets.filter((id) => id >= 0).length);
  const gradients = new Map<string, Numbers>();
  for (const { name: parameter, gradient } of network.parameters) {
    gradients.set(parameter, await gradient!.values.read());
  }
  return { loss, gradients };
}

/** Largest difference, as a share of the largest element. */
function distance(got: Numbers, want: Numbers): number {
  let [size, off] = [0, 0];
  want.forEach((value: number, i: number) => {
    size = Math.max(size, Math.abs(value));
    off = Math.max(off, Math.abs(got[i]! - value));
  });
  return off / size;
}

describe.each(["native", "wasm"] as const)("networks on %s", (backendName) => {
  let backend: Backend;
  let arithmetic: TrainingArithmetic;
  beforeAll(async () => {
    ({ backend } = await createBackend(backendName, { threads: 2 }));
    arithmetic = backend.training!();
  });
  afterAll(() => backend.dispose());

  it.each(DECODER_NAMES)("%s", async (name) => {
    const want = await train(createReferenceTraining(), name);
    // The arithmetic may keep scratch memory of its own from one network to the next, but no more with each.
    await train(arithmetic, name);
    const held = arithmetic.bytes.current;
    for (const memory of ["keep", "recompute", { chunk: 16, every: 2 }] as const) {
      const got = await train(arithmetic, name, { memory });
      expect(Math.abs(got.loss / want.loss - 1)).toBeLessThan(1e-5);
      for (const [parameter, gradient] of want.gradients) {
        const off = distance(got.gradients.get(parameter)!, gradient);
        expect(off, `${parameter} ${JSON.stringify(memory)}`).toBeLessThan(2e-4);
      }
    }
    expect(arithmetic.bytes.current).toBe(held);
  });

  it("gives the same bits with any number of threads", async () => {
    const { backend: other } = await createBackend(backendName, { threads: 1 });
    const [one, two] = [await train(other.training!(), "qwen3"), await train(arithmetic, "qwen3")];
    await other.dispose();
    expect(one.loss).toBe(two.loss);
    for (const [parameter, gradient] of one.gradients) {
      expect(two.gradients.get(parameter), parameter).toEqual(gradient);
    }
  });
});
