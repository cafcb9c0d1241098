/**
 * The compiled WebAssembly kernels. A package brings them along; in a checkout, `npm run build` compiles them, and where
 * it was not run (`npm start` does without, since the native addon mostly serves) they are compiled here, at first use.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { MillraceError } from "../../errors.js";

export type WasmInstructionSet = "simd128" | "relaxed";

export interface WasmBuildOptions {
  /** Folder of the package or the checkout, ending in a slash. Default: this one. */
  readonly root?: URL;
  /** Takes the line that says that something is being compiled. Default: stderr. */
  readonly log?: (line: string) => void;
}

/**
 * The module for this instruction set, for memory that threads share or do not.
 * Throws BACKEND_UNAVAILABLE where it is missing and cannot be compiled, with the reason.
 */
export async function loadModule(
  instructionSet: WasmInstructionSet,
  shared: boolean,
  options: WasmBuildOptions = {},
): Promise<WebAssembly.Module> {
  const { root = new URL("../../../", import.meta.url) } = options;
  const log = options.log ?? ((line: string) => process.stderr.write(`${line}\n`));
  const module = `${instructionSet}-${shared ? "shared" : "single"}.wasm`;
  const file = new URL(`dist/wasm/${module}`, root);
  const script = new URL("scripts/wasm.js", root);
  try {
    if (!existsSync(file) && existsSync(script)) {
      log(`millrace: compiling the WebAssembly kernels for ${instructionSet} (once; up to a minute)`);
      await promisify(execFile)(process.execPath, [fileURLToPath(script), instructionSet]);
    }
    return await WebAssembly.compile(await readFile(file));
  } catch (cause) {
    const { message } = cause as Error;
    throw new MillraceError(
      "BACKEND_UNAVAILABLE",
      `The WebAssembly kernels (${module}) are not to be had: ${message.trim()} Install millrace anew; in a checkout, ` +
        "`npm install && npm run build` compiles them.",
      { backend: "wasm", module },
      { cause },
    );
  }
}
