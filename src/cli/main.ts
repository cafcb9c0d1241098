/** The command line: composes the commands, and turns what they throw into exit codes. */
import { createRequire } from "node:module";
import { Command } from "commander";
import { benchCommand } from "./bench.js";
import { chatCommand } from "./chat.js";
import { doctorCommand } from "./doctor.js";
import { report } from "./failure.js";
import { inspectCommand } from "./inspect.js";
import { runCommand } from "./run.js";
import { endWithReader } from "./terminal.js";

const EXAMPLES = `
Start here:
  millrace doctor                                      what this machine can do
  millrace inspect model.gguf                          what a file holds
  millrace run model.gguf --prompt "Once upon a time"
  millrace chat hf:owner/repo                          downloads it first, once

MILLRACE_MODEL names the model for commands that are given none.`;

function program(): Command {
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  const root = new Command("millrace")
    .description("Language models on endless streams in bounded memory.")
    .version(version)
    .addHelpText("after", EXAMPLES);
  for (const command of [runCommand(), chatCommand(), inspectCommand(), benchCommand(), doctorCommand()]) {
    root.addCommand(command);
  }
  for (const command of [root, ...root.commands])
    command.exitOverride().showHelpAfterError(helpHint(command));
  return root;
}

function helpHint(command: Command): string {
  const name = command.parent ? `millrace ${command.name()}` : "millrace";
  return `(${name} --help shows what can be given)`;
}

/** Runs the program; sets the exit code and never rejects. */
export async function main(argv: readonly string[]): Promise<void> {
  endWithReader();
  const json = argv.includes("--json");
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => {
      report(error, json);
      process.exit();
    });
  }
  try {
    await program().parseAsync(argv);
  } catch (error) {
    report(error, json);
  }
}
