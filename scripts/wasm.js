// Compiles kernels/*.c to dist/wasm/*.wasm with clang for WebAssembly (the npm package @yowasp/clang): no system
// toolchain. Two instruction sets, each linked for shared memory (threads) and for unshared memory (one thread).
// Objects are kept by the hash of everything that went into them, so that a change recompiles one file.
//
//   node scripts/wasm.js             builds what is missing or out of date
//   node scripts/wasm.js relaxed     the same for one instruction set; the wasm backend does this where it finds none
//   node scripts/wasm.js --prune     only removes what is out of date
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const root = fileURLToPath(new URL("..", import.meta.url));
const kernels = path.join(root, "kernels");
const output = path.join(root, "dist", "wasm");
const objects = path.join(root, "node_modules", ".cache", "millrace", "wasm");

// Atomics work on unshared memory too, so both links take the same objects.
const COMPILE = [
  ..."--target=wasm32 -std=c11 -O3 -ffreestanding -nostdlib -fno-builtin-memcpy -fno-builtin-memset".split(
    " ",
  ),
  ..."-ffp-contract=off -Wall -Werror -msimd128 -DMILL_SHARED -matomics -mbulk-memory -mnontrapping-fptoint".split(
    " ",
  ),
];
const SETS = { simd128: [], relaxed: ["-mrelaxed-simd"] };
const LINK = [
  ..."--no-entry --import-memory --max-memory=4294967296 --stack-first -z stack-size=1048576".split(" "),
  ..."--export=__stack_pointer --export=__heap_base --export=mill_run --export=mill_pack".split(" "),
  ..."--export=mill_panel_bytes --export=mill_quantized_row_bytes --export=mill_wants_quantized".split(" "),
  "--export=mill_unpack_row",
];
const MEMORIES = { shared: ["--shared-memory"], single: [] };

const moduleName = (set, memory) => `${set}-${memory}.wasm`;
/** A file with the hash of what the set's modules were made from, written after them. */
const stampName = (set) => `${set}.sha256`;

const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest("hex");
};

const toolchain = () =>
  createRequire(import.meta.url)(path.join(root, "node_modules", "@yowasp", "clang", "package.json")).version;

/** Writes a file in one step, so that a reader never sees half of it. */
async function publish(file, bytes) {
  await writeFile(`${file}.${process.pid}`, bytes);
  await rename(`${file}.${process.pid}`, file);
}

async function readOrNull(file) {
  try {
    return await readFile(file);
  } catch {
    return null;
  }
}

/** One compile in a worker of its own: clang runs synchronously. */
async function compileJobs() {
  const { runClang, runLLVM } = await import("@yowasp/clang");
  // Loads the compiler without its progress lines, which runClang cannot be kept from printing.
  await runLLVM(["wasm-ld", "--version"], {}, { stdout() {}, fetchProgress() {} });
  parentPort.on("message", async ({ file, flags, headers, source, object }) => {
    let errors = "";
    const note = (bytes) => {
      if (bytes) errors += Buffer.from(bytes).toString();
    };
    try {
      const files = await runClang(
        ["clang", ...flags, "-c", file, "-o", "out.o"],
        { ...headers, [file]: source },
        { stdout: note, stderr: note, fetchProgress: () => {} },
      );
      await publish(object, files["out.o"]);
      parentPort.postMessage({ ok: true });
    } catch (error) {
      parentPort.postMessage({ ok: false, message: `${file}:\n${errors || error}` });
    }
  });
}

/** Runs the jobs on as many workers as there are cores. Throws the first compile error. */
async function compileAll(jobs) {
  // The longest first, so that no core ends up waiting for one large file.
  const queue = jobs.toSorted((a, b) => b.source.length - a.source.length);
  const failures = [];
  // V8's optimising compiler would take longer over clang than it spares clang in so few files.
  setFlagsFromString("--liftoff-only");
  const lane = async () => {
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: "compile" });
    for (let job = queue.shift(); job && failures.length === 0; job = queue.shift()) {
      worker.postMessage(job);
      const [reply] = await once(worker, "message");
      if (!reply.ok) failures.push(reply.message);
    }
    await worker.terminate();
  };
  await Promise.all(Array.from({ length: Math.min(queue.length, os.availableParallelism()) }, lane));
  if (failures.length > 0) throw new Error(failures.join("\n"));
}

async function link(inputs, memory, file) {
  const { runLLVM } = await import("@yowasp/clang");
  let errors = "";
  const note = (bytes) => {
    if (bytes) errors += Buffer.from(bytes).toString();
  };
  try {
    const files = await runLLVM(
      ["wasm-ld", ...Object.keys(inputs), "-o", "out.wasm", ...LINK, ...memory],
      inputs,
      { stdout: note, stderr: note, fetchProgress: () => {} },
    );
    await publish(file, files["out.wasm"]);
  } catch (error) {
    throw new Error(`wasm-ld ${path.basename(file)}:\n${errors || error}`);
  }
}

function setsNamed(words) {
  if (words.length === 0) return Object.keys(SETS);
  if (words.length === 1 && words[0] === "--prune") return [];
  const unknown = words.find((word) => !(word in SETS));
  if (unknown !== undefined)
    throw new Error(`"${unknown}" is neither of ${Object.keys(SETS).join(" and ")}, nor --prune.`);
  return words;
}

/** Brings the modules of these instruction sets up to date, and removes any that are not. */
async function build(sets) {
  const names = (await readdir(kernels)).sort();
  const text = async (extension) =>
    Object.fromEntries(
      await Promise.all(
        names
          .filter((name) => name.endsWith(extension))
          .map(async (name) => [name, await readFile(path.join(kernels, name))]),
      ),
    );
  const headers = await text(".h");
  const sources = await text(".c");
  const common = [toolchain(), ...Object.entries(headers).flat()];
  const everything = sha256(
    ...common,
    ...Object.entries(sources).flat(),
    await readFile(import.meta.filename),
  );
  const outdated = await removeOutdated(everything);
  const wanted = sets.filter((set) => outdated.has(set));
  if (wanted.length === 0) return;

  const started = performance.now();
  await mkdir(objects, { recursive: true });
  const filesOf = (set) => {
    const flags = [...COMPILE, ...SETS[set]];
    return Object.entries(sources).map(([file, source]) => {
      const object = path.join(objects, `${sha256(...common, ...flags, file, source).slice(0, 32)}.o`);
      return { file, source, flags, headers, object };
    });
  };
  const known = new Set(await readdir(objects));
  const needed = wanted.flatMap(filesOf);
  const missing = needed.filter(({ object }) => !known.has(path.basename(object)));
  await compileAll(missing);
  for (const set of wanted) {
    const inputs = {};
    for (const { file, object } of filesOf(set)) inputs[file.replace(/\.c$/, ".o")] = await readFile(object);
    for (const [memory, flags] of Object.entries(MEMORIES)) {
      await link(inputs, flags, path.join(output, moduleName(set, memory)));
    }
    await publish(path.join(output, stampName(set)), everything);
  }
  const kept = new Set(
    Object.keys(SETS)
      .flatMap(filesOf)
      .map(({ object }) => path.basename(object)),
  );
  for (const name of known) if (!kept.has(name)) await rm(path.join(objects, name), { force: true });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(
    `dist/wasm: ${missing.length} of ${needed.length} objects compiled for ${wanted.join(" and ")}, ${seconds} s`,
  );
}

/** Removes what was not made from what has this hash; resolves to the sets of which something is missing now. */
async function removeOutdated(hash) {
  await mkdir(output, { recursive: true });
  const present = new Set(await readdir(output));
  const outdated = new Set();
  for (const set of Object.keys(SETS)) {
    const modules = Object.keys(MEMORIES).map((memory) => moduleName(set, memory));
    const stamp = stampName(set);
    const isMade = (await readOrNull(path.join(output, stamp)))?.toString() === hash;
    if (isMade && modules.every((name) => present.has(name))) continue;
    outdated.add(set);
    for (const name of [stamp, ...modules]) await rm(path.join(output, name), { force: true });
  }
  return outdated;
}

if (isMainThread) {
  try {
    await build(setsNamed(process.argv.slice(2)));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
} else if (workerData === "compile") {
  await compileJobs();
}
