import { availableParallelism } from "node:os";
import { MillraceError } from "../../errors.js";
import { CompiledBackend } from "../compiled/backend.js";
import { checkThreads } from "../compiled/limits.js";
import type { Backend, BackendOptions } from "../contract.js";
import { loadModule, type WasmInstructionSet } from "./build.js";
import { WasmMachine } from "./machine.js";
import { hasRelaxedSimd } from "./relaxed.js";

export interface WasmOptions extends BackendOptions {
  /** Default: the best that this runtime has. */
  readonly instructionSet?: WasmInstructionSet;
}

/**
 * The kernels as WebAssembly: no compiler is needed on this machine. A checkout without them compiles them first.
 * Throws BACKEND_UNAVAILABLE where the modules or the instruction set asked for are not to be had,
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
  const module = await loadModule(instructionSet, threads > 1);
  return WasmMachine.create(module, instructionSet, threads);
}
