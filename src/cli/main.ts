/** The command line: composes the commands, and turns what they throw into exit codes. */
import { createRequire } from "node:module";
import { Command } from "commander";
import { report } from "./failure.js";
import { endWithReader } from "./terminal.js";

const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  run: async () => (await import("./run.js")).runCommand(),
  chat: async () => (await import("./chat.js")).chatCommand(),
  batch: async () => (await import("./batch.js")).batchCommand(),
  serve: async () => (await import("./serve.js")).serveCommand(),
  inspect: async () => (await import("./inspect.js")).inspectCommand(),
  heads: async () => (await import("./heads.js")).headsCommand(),
  train: async () => (await import("./train.js")).trainCommand(),
  finetune: async () => (await import("./finetune.js")).finetuneCommand(),
  evaluate: async () => (await import("./evaluate.js")).evaluateCommand(),
  bench: async () => (await import("./bench.js")).benchCommand(),
  doctor: async () => (await import("./doctor.js")).doctorCommand(),
};

const EXAMPLES = `
Start here:
  millrace doctor                                      what this machine can do
  millrace inspect model.gguf                          what a file holds
  millrace run model.gguf --prompt "Once upon a time"
  millrace chat hf:owner/repo                          downloads it first, once
  millrace serve model.gguf                            for OpenAI's clients

MILLRACE_MODEL names the model for commands that are given none.`;

/**
 * The command `named`, or all of them where it is none: what is not going to run need not be loaded. Commands throw
 * what they cannot do, and CommanderError for wrong usage.
 */
export async function program(named?: string): Promise<Command> {
  const { version } = createRequire(import.meta.url)("../../package.json") as { version: string };
  const root = new Command("millrace")
    .enablePositionalOptions() // what follows a subcommand is its own
    .description("Language models on endless streams in bounded memory.")
    .version(version)
    .addHelpText("after", EXAMPLES);
  const one = named !== undefined && Object.hasOwn(COMMANDS, named) ? COMMANDS[named] : undefined;
  for (const load of one ? [one] : Object.values(COMMANDS)) root.addCommand(await load());
  for (const command of withCommandsOf(root)) command.exitOverride().showHelpAfterError(helpHint(command));
  return root;
}

/** The command, its commands, theirs, and so on. */
function withCommandsOf(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withCommandsOf)];
}

function helpHint(command: Command): string {
  return `(${fullName(command)} --help shows what can be given)`;
}

const fullName = (command: Command): string =>
  command.parent ? `${fullName(command.parent)} ${command.name()}` : "millrace";

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
    await (await program(argv[2])).parseAsync(argv);
  } catch (error) {
    report(error, json);
  }
}
