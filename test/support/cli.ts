/** Runs the built command line as a person would. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const at = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** Whether there is a build to run; name it as the reason where tests are skipped. */
export const built = existsSync(at("dist/cli/main.js"));

export interface CliOptions {
  /** What comes on standard input; nothing by default. */
  readonly input?: string;
  readonly env?: Record<string, string>;
}

export interface CliResult {
  /** Exit code; null where a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts `millrace` with these arguments. $MILLRACE_MODEL does not reach it. */
export function start(args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  const { MILLRACE_MODEL: _, ...inherited } = process.env;
  return spawn(process.execPath, [at("bin/millrace"), ...args], { env: { ...inherited, ...env } });
}

/** Runs `millrace` to its end. */
export function cli(args: readonly string[], { input = "", env = {} }: CliOptions = {}): Promise<CliResult> {
  const child = start(args, env);
  child.stdin?.on("error", () => {});
  child.stdin?.end(input);
  return ending(child);
}

/** What it wrote and how it ended. */
export function ending(child: ChildProcess): Promise<CliResult> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}
