/** `millrace doctor`: what this machine can do, found out by doing it. */
import { stat } from "node:fs/promises";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { Command } from "commander";
import type { Backend } from "../backends/contract.js";
import { buildNative, findCompiler } from "../backends/native/build.js";
import { createNative } from "../backends/native/index.js";
import { createBackend } from "../backends/resolve.js";
import { selfCheck } from "../backends/selfcheck.js";
import { createWasm } from "../backends/wasm/index.js";
import { formatBytes } from "../engine/bytes.js";
import { ERRORS, type ErrorCode, MillraceError } from "../errors.js";
import { cacheFolder } from "../formats/cache-folder.js";
import { jsonOption, threadsOption } from "./options.js";
import { bold, plural, printable, table, write, writeJson } from "./terminal.js";

interface DoctorOptions {
  readonly threads?: number;
  readonly json?: boolean;
}

/** Something that was tried. */
type Outcome<T> = ({ readonly ok: true } & T) | { readonly ok: false; readonly error: Failure };

interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
}

export function doctorCommand(): Command {
  return new Command("doctor")
    .summary("show what this machine can do")
    .description(
      "Compiles the native kernels ahead of their first use, runs each backend's self-check, and says which one " +
        "`--backend auto` takes here and why. Ends with 0 as long as one of them works.",
    )
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action(async (options: DoctorOptions) => {
      const report = await examine(options.threads ?? availableParallelism());
      if (options.json) await writeJson(report);
      else await write(`${print(report)}\n`);
      if (!report.auto.ok) process.exitCode = ERRORS.BACKEND_UNAVAILABLE.exit;
    });
}

type Report = Awaited<ReturnType<typeof examine>>;

async function examine(threads: number) {
  const constrained = process.constrainedMemory() ?? 0;
  const total = totalmem();
  const machine = {
    node: process.version,
    v8: process.versions.v8,
    platform: `${process.platform} ${process.arch}`,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    totalBytes: total,
    limitBytes: constrained > 0 && constrained < total ? constrained : null,
    freeBytes: freemem(),
  };
  const compiler = await attempt(async () => {
    const { command, version } = await findCompiler();
    return { command: command.join(" "), version };
  });
  const nativeBuild = await attempt(() => build());
  const backends = {
    native: await check(() => createNative({ threads })),
    "wasm relaxed": await check(() => createWasm({ threads: 1, instructionSet: "relaxed" })),
    "wasm simd128": await check(() => createWasm({ threads: 1, instructionSet: "simd128" })),
    "wasm threads": await check(() => createWasm({ threads: Math.max(2, threads) })),
  };
  const auto = await attempt(async () => {
    const { backend, reason } = await createBackend("auto", { threads });
    const { name, description } = backend;
    await backend.dispose();
    return { name, description, reason };
  });
  return {
    machine,
    compiler,
    nativeBuild,
    backends,
    auto,
    cacheFolder: cacheFolder(),
  };
}

async function build() {
  let compiled = false;
  const startedAt = performance.now();
  const path = await buildNative({
    log: (line) => {
      compiled = true;
      process.stderr.write(`${line}\n`);
    },
  });
  const seconds = (performance.now() - startedAt) / 1000;
  const { size } = await stat(path);
  return { path, bytes: size, compiled, seconds };
}

/** Creates a backend, lets it prove itself, and disposes of it. */
function check(create: () => Promise<Backend>): Promise<Outcome<{ description: string; ms: number }>> {
  return attempt(async () => {
    const startedAt = performance.now();
    const backend = await create();
    try {
      await selfCheck(backend);
      return { description: backend.description, ms: performance.now() - startedAt };
    } finally {
      await backend.dispose();
    }
  });
}

async function attempt<T extends object>(work: () => Promise<T>): Promise<Outcome<T>> {
  try {
    return { ok: true, ...(await work()) };
  } catch (error) {
    const { code, message } = MillraceError.from(error);
    return { ok: false, error: { code, message } };
  }
}

function print({ machine, compiler, nativeBuild, backends, auto, cacheFolder }: Report): string {
  const { totalBytes, limitBytes, freeBytes } = machine;
  const memory = `${formatBytes(limitBytes ?? totalBytes)}${limitBytes === null ? "" : " (limit of the container)"}`;
  const built = (b: Extract<typeof nativeBuild, { ok: true }>) =>
    `${b.compiled ? `compiled in ${b.seconds.toFixed(1)} s` : "compiled before"}, ${formatBytes(b.bytes)}: ${b.path}`;
  const failed = teller();
  const rows = [
    ["Node.js", `${machine.node} (V8 ${machine.v8}), ${machine.platform}`],
    ["CPU", `${machine.cpu}, ${plural(machine.cores, "core")}`],
    ["Memory", `${memory}, ${formatBytes(freeBytes)} free`],
    ["C compiler", compiler.ok ? `${compiler.command}: ${compiler.version}` : failed(compiler.error)],
    ["Native kernels", nativeBuild.ok ? built(nativeBuild) : failed(nativeBuild.error)],
    ["Cache", cacheFolder],
  ];
  const checks = Object.entries(backends).map(([name, outcome]) => [
    outcome.ok ? "ok" : "no",
    name,
    outcome.ok ? `${outcome.description} (${outcome.ms.toFixed(0)} ms)` : failed(outcome.error),
  ]);
  const verdict = auto.ok
    ? `--backend auto takes ${auto.description}.${auto.reason === null ? "" : `\n${printable(auto.reason)}`}`
    : `Nothing works here. ${printable(auto.error.message)}`;
  return [
    table(rows, ["left", "left"], ""),
    `${bold("Self-checks")}\n${table(checks, ["left", "left", "left"])}`,
    bold(verdict),
  ].join("\n\n");
}

/** Tells each failure once, by its first line: a compiler's complaints are long. */
function teller(): (failure: Failure) => string {
  const told = new Set<string>();
  return ({ message }) => {
    if (told.has(message)) return "not available, as said above";
    told.add(message);
    return printable(message.split("\n")[0] ?? "");
  };
}
