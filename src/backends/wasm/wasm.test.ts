import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { describeBackend } from "../../../test/conformance/index.js";
import { Scene } from "../../../test/conformance/scene.js";
import { describeGoldenModels } from "../../../test/support/golden-models.js";
import { Allocator } from "./allocator.js";
import { createWasm } from "./index.js";
import { WasmMachine } from "./machine.js";
import { hasRelaxedSimd } from "./relaxed.js";

const BUILD = fileURLToPath(new URL("../../../scripts/wasm.js", import.meta.url));

const BUILT = fileURLToPath(new URL("../../../dist/backends/wasm/index.js", import.meta.url));

beforeAll(() => {
  execFileSync(process.execPath, [BUILD], { stdio: "inherit" });
}, 600_000);

for (const instructionSet of ["simd128", "relaxed"] as const) {
  const missing = instructionSet === "relaxed" && !hasRelaxedSimd();
  describe.skipIf(missing)(`${instructionSet} (skipped where the runtime has it not)`, () => {
    for (const threads of [1, 2]) {
      describeBackend(`wasm ${instructionSet}, ${threads} thread(s)`, () =>
        createWasm({ instructionSet, threads }),
      );
    }
  });
}

describeGoldenModels("wasm", () => createWasm({ threads: 2 }));

describe("wasm", () => {
  test("takes the best instruction set by itself", async () => {
    const backend = await createWasm({ threads: 1 });
    expect(backend.description).toBe(`wasm: ${hasRelaxedSimd() ? "relaxed" : "simd128"}, 1 thread`);
    await backend.dispose();
  });

  test("says before loading that weights pass 4 GiB", async () => {
    const scene = new Scene();
    const huge = { slices: [{ tensor: "none", rowStart: 0, rowCount: 2 ** 20 }], type: "F32" as const };
    const x = scene.tape.embed(scene.tape.weight({ ...huge, rows: 2 ** 20, columns: 2048, experts: 1 }));
    scene.finish(x);
    const backend = await createWasm({ threads: 1 });
    const load = scene.on(backend, { maxTokens: 1 });
    await expect(load).rejects.toMatchObject({
      code: "OUT_OF_BUDGET",
      details: { weightBytes: 2 ** 33, addressableBytes: 2 ** 32 },
    });
    await backend.dispose();
  });

  test("memory past 4 GiB is refused, and freed memory is handed out again, zeroed", async () => {
    const backend = await createWasm({ threads: 1 });
    expect(() => backend.allocate(2 ** 32)).toThrow(expect.objectContaining({ code: "OUT_OF_BUDGET" }));
    const region = backend.allocate(1000);
    region.bytes().fill(7);
    const { address } = region;
    region.free();
    expect(() => region.bytes()).toThrow(/freed/);
    const again = backend.allocate(1000);
    expect(again.address).toBe(address);
    expect(again.bytes().every((x) => x === 0)).toBe(true);
    await backend.dispose();
  });

  test("a closed backend refuses to run, and does not hang", async () => {
    const scene = new Scene();
    scene.finish(scene.input(new Float32Array(64), 64));
    const backend = await createWasm({ threads: 2 });
    const stage = await scene.on(backend, { maxTokens: 1 });
    await backend.dispose();
    await backend.dispose();
    await expect(stage.run({ tokens: [0] })).rejects.toMatchObject({ code: "CLOSED" });
  });

  test("a trap on any thread becomes WORKER_CRASHED, at once and from then on", async () => {
    for (const trapping of [0, 1]) {
      const module = new WebAssembly.Module(trappingModule(trapping));
      const machine = await WasmMachine.create(module, "test", 2);
      const program = machine.allocate(64);
      const barrier = machine.allocate(128);
      program.int32(24, 1)[0] = barrier.address;
      const crash = expect.objectContaining({ code: "WORKER_CRASHED" });
      expect(() => machine.run(program.address)).toThrow(crash);
      expect(() => machine.run(program.address)).toThrow(crash);
      await machine.dispose();
    }
  });

  test.skipIf(!existsSync(BUILT))("threads do not keep a process alive (skipped before the build)", () => {
    const script = `import { createWasm } from ${JSON.stringify(BUILT)}; await createWasm({ threads: 2 });`;
    execFileSync(process.execPath, ["--input-type=module", "-e", script], { timeout: 30_000 });
  });
});

/** A module of the kernels' shape whose mill_run(program, thread) traps where thread = `trapping`. */
function trappingModule(trapping: number): Uint8Array<ArrayBuffer> {
  const text = (value: string): number[] => [value.length, ...Buffer.from(value)];
  const section = (id: number, body: number[]): number[] => [id, body.length, ...body];
  const run = [0x00, 0x20, 0x01, 0x41, trapping, 0x46, 0x04, 0x40, 0x00, 0x0b, 0x0b];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [1, 0x60, 2, 0x7e, 0x7f, 0]),
    // env.memory: shared, at least 1 page, at most 65536
    ...section(2, [1, ...text("env"), ...text("memory"), 0x02, 0x03, 1, 0x80, 0x80, 0x04]),
    ...section(3, [1, 0]),
    // __stack_pointer (mutable) = 0, __heap_base = 1024
    ...section(6, [2, 0x7f, 1, 0x41, 0, 0x0b, 0x7f, 0, 0x41, 0x80, 0x08, 0x0b]),
    ...section(7, [
      3,
      ...text("mill_run"),
      0,
      0,
      ...text("__stack_pointer"),
      3,
      0,
      ...text("__heap_base"),
      3,
      1,
    ]),
    ...section(10, [1, run.length, ...run]),
  ]);
}

describe("Allocator", () => {
  test("never hands out overlapping ranges, and joins what was given back", () => {
    const allocator = new Allocator(128, 1 << 20);
    const live = new Map<number, number>();
    let state = 1;
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    for (let i = 0; i < 3000; i++) {
      if (live.size > 0 && random(2) === 0) {
        const [address, bytes] = [...live][random(live.size)]!;
        allocator.give(address, bytes);
        live.delete(address);
        continue;
      }
      const bytes = random(40_000);
      const longest = allocator.longest;
      const address = allocator.take(bytes);
      expect(address === null).toBe(Math.max(64, Math.ceil(bytes / 64) * 64) > longest);
      if (address === null) continue;
      expect(address % 64).toBe(0);
      expect(address >= 128 && address + bytes <= 1 << 20).toBe(true);
      for (const [other, length] of live) {
        expect(address >= other + Math.max(64, length) || address + Math.max(64, bytes) <= other).toBe(true);
      }
      live.set(address, bytes);
    }
    for (const [address, bytes] of live) allocator.give(address, bytes);
    expect(allocator.longest).toBe((1 << 20) - 128);
  });
});
