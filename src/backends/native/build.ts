/**
 * Compiles the native addon from kernels/ with the machine's own C compiler, at first use, into a per-user cache
 * folder. The file's name carries a hash of all that shaped it (sources, flags, compiler, CPU), so that an update
 * of any of them compiles anew and nothing else does.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { MillraceError } from "../../errors.js";
import { cacheFolder, makeFolder } from "../../formats/cache-folder.js";

const KERNELS = fileURLToPath(new URL("../../../kernels", import.meta.url));

const COMPILE = [
  ..."-std=gnu11 -O3 -fPIC -pthread -ffp-contract=off -fvisibility=hidden -Wall".split(" "),
  "-Wno-unknown-pragmas",
];
const LINK = [
  "-shared",
  "-pthread",
  ...(process.platform === "darwin" ? ["-undefined", "dynamic_lookup"] : []),
];

export interface NativeBuildOptions {
  /** Instruction set flags for the compiler. Default: all that this CPU has. */
  readonly flags?: readonly string[];
  /** Where compiled addons are kept. Default: the user's cache folder. */
  readonly cacheFolder?: string;
  /** Folder of the C sources. Default: the package's kernels. */
  readonly sources?: string;
  /** The C compiler's command. Default: $CC, else the first of cc, gcc and clang that runs. */
  readonly compiler?: string;
  /** Takes the line that says that something is being compiled. Default: stderr. */
  readonly log?: (line: string) => void;
}

interface Outcome {
  readonly code: number | null;
  readonly output: string;
}

/** Runs a command; a command that cannot be started has code null. */
function execute(command: readonly string[], cwd = KERNELS): Promise<Outcome> {
  return new Promise((resolve) => {
    const [program = "", ...args] = command;
    const child = spawn(program, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const collect = (chunk: Buffer): void => {
      output += chunk.toString();
    };
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.on("error", (error) => resolve({ code: null, output: error.message }));
    child.on("close", (code) => resolve({ code, output }));
  });
}

const unavailable = (why: string, output = ""): MillraceError =>
  new MillraceError(
    "BACKEND_UNAVAILABLE",
    `The native backend is not available: ${why} The wasm backend needs no compiler.` +
      (output ? `\n${output.trim().slice(0, 4000)}` : ""),
    { backend: "native" },
  );

/** The compiler that `buildNative` takes. Throws BACKEND_UNAVAILABLE where none runs. */
export async function findCompiler(wanted?: string): Promise<{ command: string[]; version: string }> {
  const asked = wanted ?? process.env.CC;
  const candidates = asked ? [asked] : ["cc", "gcc", "clang"];
  for (const candidate of candidates) {
    const command = candidate.split(/\s+/).filter(Boolean);
    const { code, output } = await execute([...command, "--version"]);
    if (code === 0) return { command, version: output.split("\n")[0] ?? "" };
  }
  throw unavailable(`no C compiler was found (tried ${candidates.join(", ")}; set CC to name one).`);
}

/** What `-march=native` depends on. */
async function cpuIdentity(): Promise<string> {
  const model = os.cpus()[0]?.model ?? "";
  try {
    const info = await readFile("/proc/cpuinfo", "utf8");
    const features = /^(?:flags|Features)\s*:.*$/m.exec(info)?.[0] ?? "";
    return `${model} ${features}`;
  } catch {
    return model;
  }
}

async function readTree(folder: string, extension: string): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const part of [".", "native"]) {
    for (const name of (await readdir(path.join(folder, part))).sort()) {
      if (!name.endsWith(extension)) continue;
      const file = path.join(part, name);
      files.set(file, await readFile(path.join(folder, file)));
    }
  }
  return files;
}

/** Runs `work` on every item, as many at a time as there are cores. */
async function forEachParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const lane = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: os.availableParallelism() }, lane));
}

/**
 * Path of the compiled addon, which is compiled first where it does not exist yet. Any number of processes may
 * call this at once: each compiles in a folder of its own and moves the result into place in one step.
 * Throws BACKEND_UNAVAILABLE with the compiler's words.
 */
export async function buildNative(options: NativeBuildOptions = {}): Promise<string> {
  if (process.platform === "win32")
    throw unavailable("its threads and memory are not written for Windows yet.");
  const {
    flags = ["-march=native"],
    cacheFolder: cache = cacheFolder(),
    sources: folder = KERNELS,
  } = options;
  const log = options.log ?? ((line: string) => process.stderr.write(`${line}\n`));

  const compiler = await findCompiler(options.compiler);
  const sources = await readTree(folder, ".c");
  const headers = await readTree(folder, ".h");
  const hash = createHash("sha256");
  const identity = [compiler.command.join(" "), compiler.version, await cpuIdentity(), process.arch];
  for (const part of [...identity, ...COMPILE, ...flags, ...LINK]) hash.update(part).update("\0");
  for (const [name, bytes] of [...sources, ...headers])
    hash.update(`${name}\0${bytes.length}\0`).update(bytes);
  const target = path.join(cache, "native", `${hash.digest("hex").slice(0, 32)}.node`);
  if (await stat(target).catch(() => null)) return target;

  log(`millrace: compiling the native kernels for this CPU with ${compiler.command[0]} (once; some seconds)`);
  let workshop: string;
  try {
    await makeFolder(path.dirname(target), 0o700);
    workshop = await mkdtemp(path.join(path.dirname(target), "build-"));
  } catch (error) {
    throw unavailable(`the cache folder cannot be written: ${(error as Error).message}.`);
  }
  try {
    const include = (createRequire(import.meta.url)("node-api-headers") as { include_dir: string })
      .include_dir;
    const run = async (args: readonly string[], what: string): Promise<void> => {
      const outcome = await execute([...compiler.command, ...args], folder);
      if (outcome.code !== 0) throw unavailable(`${what} failed with ${compiler.version}.`, outcome.output);
    };
    const objects = [...sources.keys()].map((file) =>
      path.join(workshop, `${file.replaceAll(path.sep, "-")}.o`),
    );
    await forEachParallel(
      [...sources.keys()].map((file, i) => [file, objects[i] ?? ""] as const),
      ([file, object]) =>
        run([...COMPILE, ...flags, "-I", include, "-c", file, "-o", object], `Compiling ${file}`),
    );
    const linked = path.join(workshop, "millrace.node");
    await run([...LINK, ...flags, ...objects, "-o", linked], "Linking the kernels");
    await rename(linked, target);
  } finally {
    await rm(workshop, { recursive: true, force: true });
  }
  return target;
}
