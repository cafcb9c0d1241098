// Builds dist/: the TypeScript sources by tsc, the kernels by scripts/wasm.js, the page by Vite. All skip what has not
// changed. With --without-wasm the kernels are left to be compiled where a model first runs on them, which is never
// where the native addon serves.
// The native addon is not built here: it is compiled on the machine that runs it (src/backends/native/build.ts).
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Runs a Node script with its output shown; resolves to its exit code. */
function node(script, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...args], { cwd: root, stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => resolve(code ?? 1));
  });
}

const typescript = path.dirname(createRequire(import.meta.url).resolve("typescript/package.json"));
const codes = await Promise.all([
  node(path.join(typescript, "bin", "tsc"), "--incremental", "--tsBuildInfoFile", "dist/.tsbuildinfo"),
  node(
    path.join(root, "scripts", "wasm.js"),
    ...(process.argv.includes("--without-wasm") ? ["--prune"] : []),
  ),
  node(path.join(root, "scripts", "web.js")),
]);
process.exitCode = Math.max(...codes);
