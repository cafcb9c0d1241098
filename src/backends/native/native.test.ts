import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { describeBackend } from "../../../test/conformance/index.js";
import { describeGoldenModels } from "../../../test/support/golden-models.js";
import { buildNative } from "./build.js";
import { createNative } from "./index.js";

const KERNELS = fileURLToPath(new URL("../../../kernels", import.meta.url));

/** First line of what the command prints, or null where it does not run. */
function output(command: string, ...args: string[]): string | null {
  try {
    return execFileSync(command, args, { stdio: ["ignore", "pipe", "ignore"] }).toString();
  } catch {
    return null;
  }
}

const hasCompiler = process.platform !== "win32" && output(process.env.CC ?? "cc", "--version") !== null;
const isX64 = process.arch === "x64";
const cpu = output("cat", "/proc/cpuinfo") ?? "";

/** Builds of other CPUs that this one can run too. */
const VARIANTS = [
  { name: "AVX2", flags: ["-mavx2", "-mfma", "-mf16c"], runs: isX64 && / avx2 /.test(cpu) },
  { name: "scalar", flags: ["-DMILL_SCALAR", "-O1"], runs: true },
];

/** Compiling may take longer than a hook is given. */
const BUILD_TIMEOUT = 600_000;

describe.skipIf(!hasCompiler)("native (skipped where no C compiler runs)", () => {
  beforeAll(() => buildNative(), BUILD_TIMEOUT);
  for (const threads of [1, 2]) {
    describeBackend(`native, ${threads} thread(s)`, () => createNative({ threads }));
  }
  describeGoldenModels("native", () => createNative({ threads: 2 }));
  for (const { name, flags, runs } of VARIANTS) {
    describe.skipIf(!runs)(`${name} build`, () => {
      beforeAll(() => buildNative({ flags }), BUILD_TIMEOUT);
      describeBackend(`native ${name}, 2 threads`, () => createNative({ threads: 2, flags }));
    });
  }

  const cross = ["aarch64-linux-gnu-gcc"].find((command) => output(command, "--version") !== null);
  test.skipIf(!cross)(
    "NEON compiles without a warning (skipped where no cross compiler is installed)",
    () => {
      const files = readdirSync(KERNELS).filter((name) => name.endsWith(".c"));
      for (const file of files) {
        const args = [
          "-std=gnu11",
          "-O1",
          "-Wall",
          "-Werror",
          "-march=armv8.2-a+dotprod",
          "-fsyntax-only",
          file,
        ];
        execFileSync(cross!, args, { cwd: KERNELS });
      }
    },
  );

  describe("the build", () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), "millrace-native-"));
    const sources = path.join(folder, "sources");
    mkdirSync(path.join(sources, "native"), { recursive: true });
    writeFileSync(path.join(sources, "one.h"), "#define ONE 1");
    writeFileSync(
      path.join(sources, "native", "addon.c"),
      '#include "../one.h"\nint one(void) { return ONE; }',
    );
    afterAll(() => rmSync(folder, { recursive: true, force: true }));

    test("happens once for the same sources and says so in one line", async () => {
      const lines: string[] = [];
      const options = { cacheFolder: folder, sources, log: (line: string) => lines.push(line) };
      const first = await buildNative(options);
      expect(await buildNative(options)).toBe(first);
      expect(lines).toEqual([expect.stringMatching(/^millrace: compiling/)]);
      writeFileSync(path.join(sources, "one.h"), "#define ONE 2");
      const second = await buildNative(options);
      expect(second).not.toBe(first);
      expect(await buildNative({ ...options, flags: [] })).not.toBe(second);
      expect(lines).toHaveLength(3);
    });

    test("may be asked for by many at once, and leaves nothing else behind", async () => {
      const cacheFolder = path.join(folder, "many");
      const build = () => buildNative({ cacheFolder, sources, log: () => {} });
      const paths = await Promise.all([build(), build(), build()]);
      expect(new Set(paths).size).toBe(1);
      expect(readdirSync(path.join(cacheFolder, "native"))).toEqual([path.basename(paths[0]!)]);
    });

    test("refuses with the compiler's own words", async () => {
      const build = buildNative({ cacheFolder: folder, sources, flags: ["-no-such-flag"], log: () => {} });
      await expect(build).rejects.toMatchObject({
        code: "BACKEND_UNAVAILABLE",
        message: expect.stringContaining("no-such-flag"),
      });
      expect(readdirSync(path.join(folder, "native")).filter((name) => name.startsWith("build-"))).toEqual(
        [],
      );
    });

    test("refuses where there is no compiler or no place to write", async () => {
      const unavailable = { code: "BACKEND_UNAVAILABLE" };
      await expect(buildNative({ compiler: "no-such-compiler" })).rejects.toMatchObject(unavailable);
      for (const cacheFolder of ["/dev/null/x", ...(process.platform === "linux" ? ["/proc/x"] : [])]) {
        const build = buildNative({ cacheFolder, sources, log: () => {} });
        await expect(build).rejects.toMatchObject(unavailable);
      }
    });
  });

  describe("memory", () => {
    test("views of freed regions are empty, and further ones are refused", async () => {
      const backend = await createNative({ threads: 1 });
      const region = backend.allocate(10_000_000);
      const view = region.float32(64, 100);
      expect(region.address % 64).toBe(0);
      expect(view.every((x) => x === 0)).toBe(true);
      region.free();
      region.free();
      expect(view.length).toBe(0);
      expect(() => region.bytes()).toThrow(/freed/);
      await backend.dispose();
    });

    test("views reach every byte of a region of several GiB", async () => {
      const backend = await createNative({ threads: 1 });
      const GiB = 2 ** 30;
      if (os.freemem() < 4 * GiB) return;
      const region = backend.allocate(3 * GiB);
      for (const at of [0, GiB - 4, 2 * GiB - 8, 2 * GiB, 3 * GiB - 4]) region.int32(at, 1)[0] = at / 4;
      // A view across the boundary between two windows sees what both sides wrote.
      expect(region.int32(2 * GiB - 8, 4)).toEqual(new Int32Array([GiB / 2 - 2, 0, GiB / 2, 0]));
      expect(region.int32(3 * GiB - 4, 1)[0]).toBe((3 * GiB - 4) / 4);
      expect(region.bytes(3 * GiB, 0).length).toBe(0);
      region.free();
      await backend.dispose();
    });

    test("more than the machine has is refused before it is taken", async () => {
      const backend = await createNative({ threads: 1 });
      expect(() => backend.allocate(2 ** 46)).toThrow(expect.objectContaining({ code: "OUT_OF_BUDGET" }));
      expect(() => backend.allocate(-1)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
      await backend.dispose();
    });
  });

  test("threads must be a whole number", async () => {
    for (const threads of [0, 1.5, -1, 1e6, Number.NaN]) {
      await expect(createNative({ threads })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
  });

  test("several workers may hold it at once and end without disposing", async () => {
    const addon = await buildNative();
    const source = `
      const addon = require(${JSON.stringify(addon)});
      const pool = addon.start(2);
      const handle = addon.allocate(1 << 24);
      new Uint8Array(addon.window(handle, 0, 1 << 24)).fill(1);
      require("node:worker_threads").parentPort.postMessage(addon.address(handle) % 64 + (pool ? 0 : 1));
    `;
    const runs = Array.from({ length: 4 }, () => {
      const worker = new Worker(source, { eval: true });
      return new Promise<unknown[]>((resolve, reject) => {
        const messages: unknown[] = [];
        worker.on("message", (message) => messages.push(message));
        worker.on("error", reject);
        worker.on("exit", (code) => resolve([...messages, code]));
      });
    });
    expect(await Promise.all(runs)).toEqual(Array.from({ length: 4 }, () => [0, 0]));
  });
});
