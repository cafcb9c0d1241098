/** `millrace evaluate soak`: a session that runs for as long as one likes. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import { formatBytes } from "../../engine/bytes.js";
import { type SoakMode, type SoakResult, type SoakSample, soak, soakTenths } from "../../evaluate/soak.js";
import type { Panel } from "../../plot/plot.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import type { ModelOptions } from "../options.js";
import { count, modelArgument, modelSource, policySpec } from "../options.js";
import { progressBar } from "../progress.js";
import { deliver } from "../results.js";
import { bold, plural, say, table } from "../terminal.js";
import {
  addEvaluationOptions,
  type EvaluationOptions,
  evaluationModel,
  type RecallFlag,
  recallOption,
} from "./flags.js";
import { openTokenizer, seed } from "./world.js";

interface SoakFlags extends EvaluationOptions, RecallFlag {
  readonly cache?: ModelOptions["cache"];
  readonly tokens: number;
  readonly mode: SoakMode;
  readonly seed: number;
  readonly every: number;
  readonly warmUp?: number;
  readonly checkpoint?: string;
  readonly checkpointEvery: number;
}

const EXAMPLES = `
Examples:
  millrace evaluate soak --tokens 1000000 --memory "8 MiB" --plot soak.svg
  millrace evaluate soak --tokens 4000000 --cache sinks:window=900 \\
    --checkpoint soak --out soak.json

A run with --checkpoint that was stopped, by Ctrl-C too, goes on when it is started
again; so does one that is done, when it is asked for more tokens.`;

export function soakCommand(): Command {
  const command = new Command("soak")
    .summary("run a session for as long as one likes: memory and time over the run")
    .description(
      "Runs one session over the harbour town's log and measures along the way what the process and the session hold, " +
        "and what a token takes: the first tenth after a warm-up against the last.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Stream:")
    .addOption(new Option("--tokens <n>", "length of the stream").argParser(count).default(1_000_000))
    .addOption(
      new Option(
        "--mode <name>",
        "read the log and answer its questions, only read, or go on with it token by token",
      )
        .choices(["mixed", "read", "generate"])
        .default("mixed"),
    )
    .addOption(new Option("--seed <n>", "which log").argParser(seed).default(1))
    .addOption(
      new Option(
        "--cache <policy>",
        "as run takes it (default: sinks beside the longest window that fits)",
      ).argParser(policySpec),
    )
    .addOption(recallOption("put what the cache loses on disk: "))
    .addOption(new Option("--every <n>", "tokens of a sample").argParser(count).default(10_000))
    .addOption(
      new Option("--warm-up <n>", "tokens before the first tenth (default: a tenth of the stream)").argParser(
        count,
      ),
    )
    .addOption(new Option("--checkpoint <folder>", "save the session there, and go on from it"))
    .addOption(
      new Option("--checkpoint-every <n>", "tokens between savings").argParser(count).default(100_000),
    )
    .addHelpText("after", EXAMPLES);
  return addEvaluationOptions(command).action(async (named: string | undefined, flags: SoakFlags) => {
    await evaluate(modelSource(named), flags);
  });
}

async function evaluate(source: string, flags: SoakFlags): Promise<void> {
  const { tokens, mode, seed, every, cache, codec, memory, recall, checkpoint, checkpointEvery } = flags;
  const tokenizer = await openTokenizer(source);
  await using model = await openModel(source, evaluationModel(flags));
  const stop = new AbortController();
  using _interrupt = onInterrupt(() => {
    say("millrace: stopping; Ctrl-C again to quit at once");
    stop.abort();
  });
  const bar = progressBar("running", (total) => plural(total, "token"));
  const startedAt = performance.now();
  let result: SoakResult;
  try {
    result = await soak(model, tokenizer, {
      tokens,
      mode,
      seed,
      every,
      session: {
        cache: cache ? { policy: cache, codec } : { codec },
        ...(memory === undefined ? {} : { memory }),
        ...(recall ? { recall } : {}),
      },
      ...(checkpoint === undefined ? {} : { checkpoint: { folder: checkpoint, every: checkpointEvery } }),
      signal: stop.signal,
      onProgress: (done) => bar.update(done, tokens),
    });
  } finally {
    bar.stop();
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const { path, backend } = model.info;
  const reached = result.samples.at(-1)?.tokens ?? 0;
  const warmUp = Math.floor(Math.min(flags.warmUp ?? reached / 10, reached / 2));
  const tenths = soakTenths(result.samples, warmUp);
  const figures = {
    model: path,
    backend: backend.description,
    mode,
    seed,
    codec,
    seconds,
    warmUp,
    ...result,
    tenths,
  };
  const title = `${basename(path)}, ${mode}`;
  await deliver(flags, figures, print(title, result, tenths, warmUp), panels(title, result));
}

function print(
  title: string,
  { samples, report, memoryBytes, resumedAt }: SoakResult,
  { first, last, most }: ReturnType<typeof soakTenths>,
  warmUp: number,
): string {
  const bytes = (value: number) => (Number.isFinite(value) ? formatBytes(value) : "-");
  const ms = (value: number) => (Number.isFinite(value) ? `${value.toFixed(3)} ms` : "-");
  const row = (name: string, of: (sample: SoakSample) => number, written: (value: number) => string) => {
    const ratio = of(last) / of(first);
    return [
      name,
      ...[first, last].map((each) => written(of(each))),
      Number.isFinite(ratio) ? ratio.toFixed(3) : "-",
      written(of(most)),
    ];
  };
  const rows = [
    ["", "first tenth", "last tenth", "last / first", "most"],
    row("resident memory of the process", ({ residentBytes }) => residentBytes, bytes),
    row("session", ({ sessionBytes }) => sessionBytes, bytes),
    row("time per token", (each) => each.ms, ms),
    row("  of processors", ({ cpuMs }) => cpuMs, ms),
    row("  read", ({ readMs }) => readMs, ms),
    row("  said", ({ saidMs }) => saidMs, ms),
  ];
  const { seen, waiting, kept, merged, demoted, dropped } = report;
  const word = (value: number) => value.toLocaleString("en-US");
  return [
    bold(`Soak: ${title}`),
    `${plural(seen + waiting, "token")}${resumedAt > 0 ? `, of which ${word(resumedAt)} in earlier runs` : ""}; ` +
      `medians of ${plural(samples.length, "sample")}; the session may hold ${formatBytes(memoryBytes)}`,
    `first tenth: of what follows a warm-up of ${plural(warmUp, "token")}; most: of all samples`,
    table(rows, ["left", "right", "right", "right", "right"]),
    `seen ${word(seen)} = kept ${word(kept)} + merged ${word(merged)} + on disk ${word(demoted)} + dropped ${word(dropped)}`,
  ].join("\n");
}

const MIB = 2 ** 20;

function panels(title: string, { samples }: SoakResult): Panel[] {
  const x = { label: "tokens of the stream", from: 0 };
  const over = (of: (sample: SoakSample) => number) =>
    samples.map((each) => [each.tokens, of(each)] as const);
  return [
    {
      title: `Memory: ${title}`,
      x,
      y: { label: "MiB", from: 0 },
      series: [
        { name: "process", points: over(({ residentBytes }) => residentBytes / MIB) },
        { name: "session", points: over(({ sessionBytes }) => sessionBytes / MIB) },
      ],
    },
    {
      title: `Time per token: ${title}`,
      x,
      y: { label: "milliseconds", from: 0 },
      series: [
        { name: "all", points: over(({ ms }) => ms) },
        { name: "of processors", points: over(({ cpuMs }) => cpuMs) },
        { name: "read", points: over(({ readMs }) => readMs) },
        { name: "said", points: over(({ saidMs }) => saidMs) },
      ],
    },
  ];
}
