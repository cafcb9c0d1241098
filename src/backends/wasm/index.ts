import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { MillraceError } from "../../errors.js";
import { CompiledBackend } from "../compiled/backend.js";
import { checkThreads } from "../compiled/limits.js";
import type { Backend, BackendOptions } from "../contract.js";
import { WasmMachine } from "./machine.js";
import { hasRelaxedSimd } from "./relaxed.js";

export type WasmInstructionSet = "simd128" | "relaxed";

export interface WasmOptions extends BackendOptions {
  /** Default: the best that this runtime has. */
  readonly instructionSet?: WasmInstructionSet;
}

async function compileModule(
  instructionSet: WasmInstructionSet,
  shared: boolean,
): Promise<WebAssembly.Module> {
  const name = `${instructionSet}-${shared ? "shared" : "single"}.wasm`;
  const url = new URL(`../../../dist/wasm/${name}`, import.meta.url);
  try {
    return await WebAssembly.compile(await readFile(url));
  } catch (cause) {
    throw new MillraceError(
      "BACKEND_UNAVAILABLE",
      `The WebAssembly kernels (${name}) cannot be loaded: ${(cause as Error).message}. In a checkout, run the build.`,
      { backend: "wasm", module: name },
      { cause },
    );
  }
}

/**
 * The kernels as WebAssembly: no compiler is needed on this machine.
 * Throws BACKEND_UNAVAILABLE where the modules are missing or the instruction set asked for is not to be had,
 * WORKER_CRASHED where a thread does not start.
 */
export async function createWasm(options: WasmOptions = {}): Promise<Backend> {
  return new CompiledBackend(await createWasmMachine(options));
}

/** The machine alone, without a backend on it; throws as `createWasm`. */
export async function createWasmMachine(options: WasmOptions = {}): Promise<WasmMachine> {
  const threads = options.threads ?? availableParallelism();
  checkThreads(threads);
  const relaxed = options.instructionSet !== "simd128" && hasRelaxedSimd();
  if (options.instructionSet === "relaxed" && !relaxed) {
    throw new MillraceError("BACKEND_UNAVAILABLE", "This runtime has no relaxed SIMD; ask for simd128.", {
      backend: "wasm",
    });
  }
  const instructionSet = relaxed ? "relaxed" : "simd128";
  const module = await compileModule(instructionSet, threads > 1);
  return WasmMachine.create(module, instructionSet, threads);
}
