/** `millrace evaluate saving`: how long a session takes to be saved and restored. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import { formatBytes, parseBytes } from "../../engine/bytes.js";
import { measureSaving, type SavingResult } from "../../evaluate/saving.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import { count, modelArgument, modelSource } from "../options.js";
import { progressBar } from "../progress.js";
import { deliver } from "../results.js";
import { bold, plural, table } from "../terminal.js";
import { addEvaluationOptions, type EvaluationOptions, evaluationModel } from "./flags.js";

interface SavingFlags extends EvaluationOptions {
  readonly runs: number;
  readonly dir?: string;
}

const SIZE = "32 MiB";

export function savingCommand(): Command {
  const command = new Command("saving")
    .summary("time saving and restoring a session")
    .description(
      `Fills a session until it holds --memory (default: ${SIZE}), saves and restores it, and checks that the session and ` +
        "the restored one go on alike, greedily and by chance.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Runs:")
    .addOption(new Option("--runs <n>", "savings and restorings").argParser(count).default(10))
    .addOption(new Option("--dir <folder>", "where the file is written (default: among temporary files)"));
  return addEvaluationOptions(command).action(async (named: string | undefined, flags: SavingFlags) => {
    await evaluate(modelSource(named), flags);
  });
}

async function evaluate(source: string, flags: SavingFlags): Promise<void> {
  const { runs, dir, codec, memory = SIZE } = flags;
  await using model = await openModel(source, evaluationModel(flags));
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const bar = progressBar("filling", (total) => plural(total, "token"));
  let result: SavingResult;
  try {
    result = await measureSaving(model, {
      bytes: parseBytes(memory),
      runs,
      codec,
      ...(dir === undefined ? {} : { dir }),
      signal: abort.signal,
      onProgress: bar.update,
    });
  } finally {
    bar.stop();
  }
  const { path, backend } = model.info;
  const figures = { model: path, backend: backend.description, codec, ...result };
  await deliver(flags, figures, print(basename(path), result), [
    {
      title: `Saving and restoring ${formatBytes(result.bytes)}: ${basename(path)}`,
      x: { label: "run", from: 1 },
      y: { label: "milliseconds", from: 0 },
      series: [
        { name: "saved", style: "marks", points: result.saveMs.map((ms, i) => [i + 1, ms]) },
        { name: "restored", style: "marks", points: result.restoreMs.map((ms, i) => [i + 1, ms]) },
      ],
    },
  ]);
}

function print(title: string, result: SavingResult): string {
  const { tokens, bytes, fileBytes, saveMs, restoreMs, medianSaveMs, medianRestoreMs, continued, identical } =
    result;
  const row = (name: string, middle: number, all: readonly number[]) => [
    name,
    `${middle.toFixed(1)} ms`,
    `${Math.min(...all).toFixed(1)} ms`,
    `${Math.max(...all).toFixed(1)} ms`,
  ];
  const rows = [
    ["", "median", "least", "most"],
    row("saved", medianSaveMs, saveMs),
    row("restored", medianRestoreMs, restoreMs),
  ];
  return [
    bold(`Saving a session: ${title}`),
    `${plural(tokens, "token")}, ${formatBytes(bytes)} in memory, ${formatBytes(fileBytes)} as a file; ${plural(saveMs.length, "run")}`,
    table(rows, ["left", "right", "right", "right"]),
    identical
      ? `The restored session said the same next ${continued} tokens.`
      : "The restored session went on differently.",
  ].join("\n");
}
