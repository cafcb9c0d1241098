/** A checkout's kernels, compiled at first use: here by scripts that only stand for the real one. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, expect, it } from "vitest";
import { loadModule } from "./build.js";

/** The least that is a module: magic and version. */
const EMPTY = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

let folder: string;
let root: URL;
let said: string[];
const log = (line: string) => said.push(line);

beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "millrace-"));
  root = pathToFileURL(`${folder}/`);
  said = [];
});
afterEach(() => rm(folder, { recursive: true }));

async function place(file: string, content: string | Uint8Array): Promise<void> {
  await mkdir(path.dirname(path.join(folder, file)), { recursive: true });
  await writeFile(path.join(folder, file), content);
}

it("compiles the set that is asked for where a checkout has none, and says so", async () => {
  await place("package.json", '{"type": "module"}');
  await place(
    "scripts/wasm.js",
    `import { mkdirSync, writeFileSync } from "node:fs";
    const folder = import.meta.dirname + "/../dist/wasm";
    mkdirSync(folder, { recursive: true });
    writeFileSync(folder + "/" + process.argv[2] + "-single.wasm", new Uint8Array([${EMPTY}]));`,
  );
  expect(await loadModule("relaxed", false, { root, log })).toBeInstanceOf(WebAssembly.Module);
  expect(said).toEqual([expect.stringContaining("compiling the WebAssembly kernels for relaxed")]);
});

it("takes those that are there without a word", async () => {
  await place("scripts/wasm.js", "process.exit(1)");
  await place("dist/wasm/simd128-shared.wasm", new Uint8Array(EMPTY));
  expect(await loadModule("simd128", true, { root, log })).toBeInstanceOf(WebAssembly.Module);
  expect(said).toEqual([]);
});

it("gives the compiler's words where it fails", async () => {
  await place("scripts/wasm.js", `console.error("matmul.c: no such thing"); process.exit(1);`);
  await expect(loadModule("relaxed", true, { root, log })).rejects.toMatchObject({
    code: "BACKEND_UNAVAILABLE",
    message: expect.stringContaining("matmul.c: no such thing"),
    details: { module: "relaxed-shared.wasm" },
  });
});

it("says what to do where a package has lost them", async () => {
  await expect(loadModule("relaxed", true, { root, log })).rejects.toMatchObject({
    code: "BACKEND_UNAVAILABLE",
    message: expect.stringContaining("Install millrace anew"),
  });
  expect(said).toEqual([]);
});
