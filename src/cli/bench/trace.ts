/** `millrace bench trace`: a request trace replayed, with prefixes shared and without. */
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { Argument, Command, Option } from "commander";
import { quantiles } from "../../bench/quantiles.js";
import { type Replay, replay } from "../../bench/replay.js";
import { readTrace } from "../../bench/trace.js";
import { fittingScale, longestOf, type TracePrompt, tracePrompts } from "../../bench/trace-prompts.js";
import { MillraceError } from "../../errors.js";
import { median } from "../../evaluate/median.js";
import { fileError } from "../../formats/file.js";
import type { Model } from "../../index.js";
import { openModel } from "../open-model.js";
import {
  addModelOptions,
  count,
  decimal,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, plural, say, table } from "../terminal.js";
import { seldom, stoppable, unlessStopped } from "./stoppable.js";

interface TraceOptions extends ModelOptions, ResultOptions {
  readonly requests: number;
  readonly speed: number;
  readonly scale?: number;
  readonly sequences: number;
  readonly runs: number;
}

/** Longer than what the model in the box was trained for: its answers are of no interest here. */
const CONTEXT = 8192;

const EXAMPLES = `
The format is that of the Mooncake open traces (github.com/kvcache-ai/Mooncake,
FAST25-release/traces), one JSON object a line:
  {"timestamp": 27482, "input_length": 6955, "output_length": 52,
   "hash_ids": [46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 2353, 2354]}

Examples:
  millrace bench trace conversation_trace.jsonl
  millrace bench trace toolagent_trace.jsonl --requests 500 --speed 0.5
  millrace bench trace test/traces/sample.jsonl --json`;

export function traceCommand(): Command {
  const command = new Command("trace")
    .summary("replay a request trace with shared prefixes, and without")
    .description(
      "Replays the lengths, times and shared prefixes of a request trace with made-up tokens, on the same model with its " +
        "prefix tree and without, in turn: share of prompt tokens taken over, time to first token (from the request's time " +
        "in the trace, waiting included), and tokens per second.",
    )
    .addArgument(new Argument("<file>", "trace, one JSON object a line"))
    .addArgument(modelArgument())
    .optionsGroup("Replay:")
    .addOption(
      new Option("--requests <n>", "replay the first so many of the trace").argParser(count).default(200),
    )
    .addOption(
      new Option("--speed <x>", "let requests come x times as fast as in the trace")
        .argParser(decimal)
        .default(1),
    )
    .addOption(
      new Option(
        "--scale <x>",
        "multiply all lengths, those of blocks too (default: so that the longest request fits)",
      ).argParser(decimal),
    )
    .addOption(new Option("--sequences <n>", "requests that run at once").argParser(count).default(16))
    .addOption(new Option("--runs <n>", "replays with and without").argParser(count).default(1));
  return addResultOptions(addModelOptions(command), false)
    .addHelpText("after", EXAMPLES)
    .action(async (file: string, named: string | undefined, options: TraceOptions) => {
      await bench(file, modelSource(named), options);
    });
}

/** A replay with the tree and one without. */
interface Round {
  readonly shared: Replay;
  readonly alone: Replay;
}

async function bench(file: string, source: string, options: TraceOptions): Promise<void> {
  const { requests: most, speed, sequences, runs } = options;
  for (const name of ["speed", "scale"] as const) {
    const value = options[name];
    if (value !== undefined && !(value > 0 && value <= 1e6))
      throw wrong(`--${name} is ${value}; expected a number above 0.`, name);
  }
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw fileError(file, error);
  });
  const requests = readTrace(text, file).slice(0, most);
  using stop = stoppable();
  const opened = {
    ...openOptions({ ...options, context: options.context ?? CONTEXT }),
    sequences,
  };

  let prompts: TracePrompt[] = [];
  let scale = 1;
  let model = { path: source, backend: "" };
  const run = async (prefixCache: boolean, round: number): Promise<Replay> => {
    await using opening = await openModel(source, { ...opened, prefixCache });
    if (prompts.length === 0) {
      const { context, vocabularySize, path, backend } = opening.info;
      model = { path, backend: backend.description };
      scale = options.scale ?? fittingScale(requests, context);
      const longest = longestOf(requests, scale);
      if (longest > context) {
        throw wrong(
          `The longest request has ${longest} tokens at --scale ${scale}, and the context ${context}; give a --context of ${longest}, or a --scale of at most ${fittingScale(requests, context).toFixed(4)}.`,
          "scale",
        );
      }
      prompts = tracePrompts(requests, { scale, vocabularySize });
    }
    await warmUp(opening, prefixCache);
    const name = prefixCache ? "with the tree" : "without";
    const tell = seldom();
    const result = await replay(opening, prompts, {
      speed,
      signal: stop.signal,
      onProgress: (done) => tell(() => `run ${round + 1}, ${name}: ${done} of ${prompts.length} answered`),
    });
    const { p50, p99 } = quantiles(result.firstTokenMs);
    say(
      `run ${round + 1}, ${name}: ${plural(result.answered, "answer")} in ${result.seconds.toFixed(1)} s, ` +
        `${percent(hits(result))} of prompt tokens taken over, first token ${ms(p50)} (p99 ${ms(p99)})`,
    );
    return result;
  };

  const rounds: Round[] = [];
  const partial: Partial<Record<keyof Round, Replay>> = {};
  for (let round = 0; round < runs && !stop.signal.aborted; round++) {
    // In turn who begins: what drifts hits both alike.
    const order = round % 2 === 0 ? (["shared", "alone"] as const) : (["alone", "shared"] as const);
    const runOf: Partial<Record<keyof Round, Replay>> = {};
    for (const name of order) {
      await unlessStopped(stop.signal, async () => {
        runOf[name] = await run(name === "shared", round);
      });
    }
    if (stop.signal.aborted) Object.assign(partial, runOf);
    else rounds.push(runOf as Round);
  }

  const promptTokens = prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const report = {
    trace: file,
    model: model.path,
    backend: model.backend,
    requests: requests.length,
    speed,
    scale,
    sequences,
    /** The trace's own time for these requests, at this speed. */
    seconds: (prompts.at(-1)?.at ?? 0) / speed / 1000,
    promptTokens,
    answerTokens: prompts.reduce((sum, { answerTokens }) => sum + answerTokens, 0),
    /** Share of prompt tokens that came before in the trace: what a cache without limits could take over. */
    possibleHits: prompts.reduce((sum, { known }) => sum + known, 0) / promptTokens,
    complete: rounds.length === runs,
    withTree: summary(rounds.map(({ shared }) => shared)),
    without: summary(rounds.map(({ alone }) => alone)),
    rounds,
    ...(Object.keys(partial).length > 0 ? { partial } : {}),
  };
  await deliver(options, report, print(report));
}

/** Something like no prompt of the trace; refuses a cache that shares nothing. */
async function warmUp(model: Model, prefixCache: boolean): Promise<void> {
  await model.generate([1, 2, 1, 2], { maxTokens: 8, temperature: 0, ignoreEos: true }).result;
  if (prefixCache && (await model.usage()).prefix === null) {
    throw wrong("With this --cache no prefixes are shared; leave it at full.", "cache");
  }
}

const hits = ({ cachedTokens, promptTokens }: Replay): number => cachedTokens / promptTokens;

interface Summary {
  readonly hits: number;
  readonly firstTokenMs: { readonly p50: number; readonly p90: number; readonly p99: number };
  readonly tokensPerSecond: number;
  readonly seconds: number;
}

/** Medians over replays. */
function summary(replays: readonly Replay[]): Summary {
  const of = (pick: (each: Replay) => number) => median(replays.map(pick));
  const first = (name: "p50" | "p90" | "p99") => of(({ firstTokenMs }) => quantiles(firstTokenMs)[name]);
  return {
    hits: of(hits),
    firstTokenMs: { p50: first("p50"), p90: first("p90"), p99: first("p99") },
    tokensPerSecond: of(
      ({ promptTokens, generatedTokens, seconds }) => (promptTokens + generatedTokens) / seconds,
    ),
    seconds: of(({ seconds }) => seconds),
  };
}

interface Report {
  readonly trace: string;
  readonly model: string;
  readonly backend: string;
  readonly requests: number;
  readonly speed: number;
  readonly scale: number;
  readonly seconds: number;
  readonly promptTokens: number;
  readonly answerTokens: number;
  readonly possibleHits: number;
  readonly complete: boolean;
  readonly withTree: Summary;
  readonly without: Summary;
}

function print(report: Report): string {
  const { withTree, without } = report;
  const row = (name: string, { hits, firstTokenMs, tokensPerSecond, seconds }: Summary) => [
    name,
    percent(hits),
    ...[firstTokenMs.p50, firstTokenMs.p90, firstTokenMs.p99].map(ms),
    tokensPerSecond.toFixed(0),
    seconds.toFixed(1),
  ];
  const factor = (pick: (each: Summary) => number) => `${(pick(without) / pick(withTree)).toFixed(2)} x`;
  return [
    bold(`${basename(report.trace)} on ${basename(report.model)}: ${plural(report.requests, "request")}`),
    `${report.backend}; lengths x ${report.scale.toFixed(4)}: ${plural(report.promptTokens, "prompt token")}, ${plural(report.answerTokens, "answer token")} within ${report.seconds.toFixed(0)} s`,
    "",
    table(
      [
        ["", "taken over", "first token p50", "p90", "p99", "tokens/s", "seconds"],
        row("with the prefix tree", withTree),
        row("without", without),
        [
          "without / with",
          "",
          ...(["p50", "p90", "p99"] as const).map((name) => factor((each) => each.firstTokenMs[name])),
        ],
      ],
      ["left", ...Array.from({ length: 6 }, () => "right" as const)],
    ),
    "",
    `At most ${percent(report.possibleHits)} could be taken over: that much of the prompts came before in the trace.`,
    "First tokens count from the request's time in the trace.",
    ...(report.complete ? [] : ["Stopped before the end: figures are of what was answered until then."]),
  ].join("\n");
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const ms = (value: number): string => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
const wrong = (message: string, name: string): MillraceError =>
  new MillraceError("INVALID_ARGUMENT", message, { name });
