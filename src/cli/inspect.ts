/** `millrace inspect`: what a model file holds and what it would take, from its header alone. */
import { Command, Option } from "commander";
import { openParameters } from "../engine/open.js";
import { ERRORS } from "../errors.js";
import { resolveModelPath } from "../formats/hub.js";
import { openCheckpoint } from "../formats/open.js";
import { print } from "./inspect/print.js";
import { examine } from "./inspect/report.js";
import { onInterrupt } from "./interrupt.js";
import {
  addModelOptions,
  count,
  jsonOption,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "./options.js";
import { phaseBars } from "./progress.js";
import { write, writeJson } from "./terminal.js";

interface InspectOptions extends ModelOptions {
  readonly sequences: number;
  readonly tensors?: boolean;
  readonly template?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  millrace inspect model.gguf
  millrace inspect model.gguf --context 32768 --codec int8 --memory 8GiB
  millrace inspect model.gguf --json --tensors | jq '.tensors[].name'

Exit codes: 0 it can run here, 4 it cannot be run at all, 6 no backend,
7 it does not fit; the report is printed all the same.`;

export function inspectCommand(): Command {
  const command = new Command("inspect")
    .summary("show what a model file holds, and whether it fits")
    .description(
      "Shows metadata, architecture, tensors and tokenizer of a model file, the memory that it needs, and whether it " +
        "fits into what is free, or into --memory. No weights are read.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Report:")
    .addOption(new Option("--tensors", "list every tensor instead of a sum by type"))
    .addOption(new Option("--template", "print the chat template in full"))
    .addOption(jsonOption());
  addModelOptions(command)
    .addOption(new Option("--sequences <n>", "requests that run at once").argParser(count).default(1))
    .addHelpText("after", EXAMPLES);
  return command.action(async (named: string | undefined, options: InspectOptions) => {
    await inspect(modelSource(named), options);
  });
}

async function inspect(source: string, options: InspectOptions): Promise<void> {
  const parameters = openParameters(source, { ...openOptions(options), sequences: options.sequences });
  await using checkpoint = await openCheckpoint(await fetched(source));
  const { tensors = false, template = false } = options;
  const report = await examine(checkpoint, parameters, { tensors, template });
  if (options.json) await writeJson(report);
  else await write(`${print(report)}\n`);
  const [problem] = report.problems;
  if (problem) process.exitCode = ERRORS[problem.code].exit;
}

async function fetched(source: string): Promise<string> {
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  using bars = phaseBars(source);
  return await resolveModelPath(source, {
    signal: abort.signal,
    onProgress: ({ received, total }) => {
      bars.update({ phase: "download", loadedBytes: received, totalBytes: total });
    },
  });
}
