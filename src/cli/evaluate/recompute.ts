/** `millrace evaluate recompute`: attention sinks against computing the sliding window anew for every token. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import { compareRecompute, type RecomputeResult } from "../../evaluate/recompute.js";
import type { Panel } from "../../plot/plot.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import { count, modelArgument, modelSource } from "../options.js";
import { progressBar } from "../progress.js";
import { deliver } from "../results.js";
import { bold, plural, table } from "../terminal.js";
import { addEvaluationOptions, counts, type EvaluationOptions, evaluationModel } from "./flags.js";

interface RecomputeFlags extends EvaluationOptions {
  readonly window: readonly number[];
  readonly runs: number;
  readonly tokens: number;
  readonly windows: number;
}

export function recomputeCommand(): Command {
  const command = new Command("recompute")
    .summary("time attention sinks against computing the window anew")
    .description(
      "Times a token of an endless stream with attention sinks, and the same with the sliding window computed anew for " +
        "every token, which is what keeps quality where neither sinks nor all tokens are kept. Both sides alternate.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Runs:")
    .addOption(
      new Option("--window <list>", "tokens that are attended, with commas between several")
        .argParser(counts)
        .default([512, 1024], "512,1024"),
    )
    .addOption(new Option("--runs <n>", "runs of which the median counts").argParser(count).default(5))
    .addOption(new Option("--tokens <n>", "tokens of a run with sinks").argParser(count).default(64))
    .addOption(new Option("--windows <n>", "windows of a run that are computed").argParser(count).default(3));
  return addEvaluationOptions(command).action(async (named: string | undefined, flags: RecomputeFlags) => {
    await evaluate(modelSource(named), flags);
  });
}

async function evaluate(source: string, flags: RecomputeFlags): Promise<void> {
  const { window: windows, runs, codec } = flags;
  const context = flags.context ?? Math.max(...windows) + 1;
  const results: RecomputeResult[] = [];
  await using model = await openModel(source, {
    ...evaluationModel(flags),
    context,
    sequences: 1,
    cache: { codec },
    // What is timed shall run.
    prefixCache: false,
  });
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const total = windows.length * (runs + 1);
  const bar = progressBar("timing", (all) => plural(all, "run"));
  try {
    for (const [i, window] of windows.entries()) {
      const onRun = (done: number) => bar.update(i * (runs + 1) + done + 1, total);
      const options = { window, runs, tokens: flags.tokens, windows: flags.windows, codec };
      results.push(await compareRecompute(model, { ...options, signal: abort.signal, onRun }));
    }
  } finally {
    bar.stop();
  }
  const { path, backend } = model.info;
  const title = basename(path);
  const figures = { model: path, backend: backend.description, codec, results };
  await deliver(flags, figures, print(title, backend.description, results), [picture(title, results)]);
}

function print(title: string, backend: string, results: readonly RecomputeResult[]): string {
  const rows = results.map(({ window, sinksMs, recomputeMs, ratio }) => [
    window.toLocaleString("en-US"),
    `${sinksMs.toFixed(3)} ms`,
    `${recomputeMs.toFixed(3)} ms`,
    `${ratio.toFixed(1)} x`,
  ]);
  const head = ["window", "with sinks", "computed anew", "ratio"];
  return [
    bold(`Time per token: ${title}`),
    `${backend}; medians of ${plural(results[0]?.runs.length ?? 0, "run")}`,
    table([head, ...rows], ["right", "right", "right", "right"]),
  ].join("\n");
}

function picture(title: string, results: readonly RecomputeResult[]): Panel {
  return {
    title: `Time per token: ${title}`,
    x: { label: "tokens attended", scale: "log" },
    y: { label: "milliseconds", scale: "log" },
    series: [
      { name: "with sinks", style: "marks", points: results.map(({ window, sinksMs }) => [window, sinksMs]) },
      {
        name: "computed anew",
        style: "marks",
        points: results.map(({ window, recomputeMs }) => [window, recomputeMs]),
      },
    ],
  };
}
