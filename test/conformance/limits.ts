import { expect } from "vitest";
import type { Backend, Step } from "../../src/backends/contract.js";
import { TestRandom } from "../support/random.js";
import { type KvShape, kvBatch } from "./kv.js";
import { Scene } from "./scene.js";
import type { Suite } from "./suite.js";

const SHAPE: KvShape = {
  numLayers: 1,
  numKvHeads: 2,
  headWidth: 16,
  codec: "f32",
  pageTokens: 16,
  groups: "together",
  spans: [
    { stored: 3, count: 2 },
    { stored: 0, count: 1 },
  ],
};

async function smallStage(backend: Backend) {
  const random = new TestRandom(1);
  const scene = new Scene();
  const { groups, batch, numPages, maxTokens } = kvBatch(random, SHAPE);
  const k = scene.input(random.floats(maxTokens * 32), 32);
  const v = scene.input(random.floats(maxTokens * 32), 32);
  scene.tape.append({ layer: 0, numKvHeads: 2, headWidth: 16, window: null }, k, v);
  scene.finish(scene.tape.attention(k, { layer: 0, numHeads: 2, scale: 1, rope: null }));
  const stage = await scene.on(backend, { maxTokens, groups, numPages });
  return { stage, step: stage.step(batch) };
}

/** A step past its limits is refused with a code before anything runs; memory behaves as the contract says. */
export function limitCases(suite: Suite): void {
  const wrong: Record<string, [change: (step: Step) => Partial<Step>, code: string]> = {
    "more tokens than the limit": [
      () => ({ tokens: new Int32Array(4), positions: new Int32Array(4) }),
      "INVALID_ARGUMENT",
    ],
    "more outputs than the limit": [() => ({ outputs: Int32Array.of(0, 1, 2, 3) }), "INVALID_ARGUMENT"],
    "an output that is no token": [() => ({ outputs: Int32Array.of(3) }), "INVALID_ARGUMENT"],
    "outputs that descend": [() => ({ outputs: Int32Array.of(2, 1) }), "INVALID_ARGUMENT"],
    "too few positions": [() => ({ positions: new Int32Array(2) }), "INVALID_ARGUMENT"],
    "a negative position": [() => ({ positions: Int32Array.of(0, -1, 0) }), "INVALID_ARGUMENT"],
    "a token past the vocabulary": [() => ({ tokens: Int32Array.of(0, 1, 3) }), "INVALID_TOKEN"],
    "a negative token": [() => ({ tokens: Int32Array.of(0, 1, -1) }), "INVALID_TOKEN"],
    "spans with a gap": [
      ({ spans }) => ({ spans: [spans[0]!, { ...spans[1]!, start: 3 }] }),
      "INVALID_ARGUMENT",
    ],
    "spans that leave tokens out": [({ spans }) => ({ spans: [spans[0]!] }), "INVALID_ARGUMENT"],
    "a span without its view": [
      ({ spans }) => ({ spans: [spans[0]!, { ...spans[1]!, views: [] }] }),
      "INVALID_ARGUMENT",
    ],
    "slots of a missing group": [() => ({ slots: [] }), "INVALID_ARGUMENT"],
    "a slot past the table": [() => ({ slots: [Int32Array.of(0, 1, 16)] }), "INVALID_ARGUMENT"],
    "a negative slot": [() => ({ slots: [Int32Array.of(0, 1, -1)] }), "INVALID_ARGUMENT"],
  };
  for (const [name, [change, code]] of Object.entries(wrong)) {
    suite.case(`refuses ${name}`, async () => {
      const { stage, step } = await smallStage(suite.backend);
      await expect(stage.program.run({ ...step, ...change(step) })).rejects.toMatchObject({ code });
      await stage.program.run(step); // and goes on working
      stage.dispose();
    });
  }

  suite.case("runs an empty batch", async () => {
    const { stage, step } = await smallStage(suite.backend);
    const none = new Int32Array(0);
    await stage.program.run({
      ...step,
      tokens: none,
      positions: none,
      outputs: none,
      spans: [],
      slots: [none],
    });
    expect(stage.program.logits()).toHaveLength(0);
    stage.dispose();
  });

  suite.case("plans before it allocates, and refuses unknown buffers and foreign weights", async () => {
    const scene = new Scene();
    const x = scene.input(new TestRandom(1).floats(64 * 8), 64);
    const { finished } = scene.finish(x);
    const limits = { maxTokens: 8, maxOutputs: 8, kv: { pageBytes: 64, groups: [] } };
    const plan = suite.backend.plan(finished, limits);
    expect(plan.weightBytes).toBeGreaterThanOrEqual(0);
    expect(plan.scratchBytes).toBeGreaterThanOrEqual(8 * 64 * 4);
    const stage = await scene.on(suite.backend, { maxTokens: 8 });
    expect(() => stage.program.read(99)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    const foreign = { byteLength: 0, dispose() {} };
    const compiling = (async () => suite.backend.compile(finished, foreign, limits))();
    await expect(compiling).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    stage.dispose();
  });

  suite.case("refuses groups that miss a lane, and pages too small for their codec", async () => {
    const scene = new Scene();
    const k = scene.input(new TestRandom(1).floats(32), 32);
    scene.tape.append({ layer: 0, numKvHeads: 2, headWidth: 16, window: null }, k, k);
    scene.finish(k);
    const lanes = [{ layer: 0, head: 0 }];
    const group = { codec: "f32", pageTokens: 16, headWidth: 16, lanes } as const;
    const compiling = scene.on(suite.backend, { maxTokens: 1, groups: [group] });
    await expect(compiling).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const uneven = { ...group, pageTokens: 24, lanes: [...lanes, { layer: 0, head: 1 }] };
    await expect(scene.on(suite.backend, { maxTokens: 1, groups: [uneven] })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
  });

  suite.case("memory is zeroed, aligned, copied between regions, and bounded", () => {
    const { backend } = suite;
    const [a, b] = [backend.allocate(256), backend.allocate(128)];
    expect(a.address % 64).toBe(0);
    expect(b.address % 64).toBe(0);
    expect(new Set([...a.bytes(), ...b.bytes()])).toEqual(new Set([0]));
    a.bytes().set(Uint8Array.from({ length: 256 }, (_, i) => i));
    backend.copy(a, 64, b, 32, 96);
    expect([...b.bytes(32, 96)]).toEqual(Array.from({ length: 96 }, (_, i) => 64 + i));
    expect(b.bytes(0, 32).every((byte) => byte === 0)).toBe(true);
    backend.copy(a, 0, a, 128, 128);
    expect([...a.bytes(128, 4)]).toEqual([0, 1, 2, 3]);
    expect(a.int32(4, 1)[0]).toBe(0x07060504);
    expect(a.float32(0, 64)).toHaveLength(64);
    for (const region of [a, b, b]) region.free();
    return Promise.resolve();
  });
}
