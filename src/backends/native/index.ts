import { CompiledBackend } from "../compiled/backend.js";
import type { Backend, BackendOptions } from "../contract.js";
import { buildNative, type NativeBuildOptions } from "./build.js";
import { NativeMachine } from "./machine.js";

export interface NativeOptions extends BackendOptions, NativeBuildOptions {}

/**
 * The kernels compiled for this CPU, from the cache or, at first use, by the machine's C compiler.
 * Throws BACKEND_UNAVAILABLE where there is no compiler, or where what it made cannot be loaded.
 */
export async function createNative(options: NativeOptions = {}): Promise<Backend> {
  return new CompiledBackend(await createNativeMachine(options));
}

/** The machine alone, without a backend on it; throws as `createNative`. */
export async function createNativeMachine(options: NativeOptions = {}): Promise<NativeMachine> {
  return new NativeMachine(await buildNative(options), options.threads);
}
