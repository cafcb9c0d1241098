/** `millrace bench batch`: a batch of prompts that share prefixes, in the order that is planned and in the order they come. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import {
  BATCH_ORDERS,
  type BatchOrder,
  type BatchRun,
  type BatchShape,
  runPrompts,
  sharingPrompts,
} from "../../bench/batch-orders.js";
import { MillraceError } from "../../errors.js";
import { median } from "../../evaluate/median.js";
import type { ModelInfo } from "../../index.js";
import { openModel } from "../open-model.js";
import {
  addModelOptions,
  count,
  type ModelOptions,
  modelArgument,
  modelSource,
  openOptions,
} from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, plural, say, table } from "../terminal.js";
import { seldom, stoppable, unlessStopped } from "./stoppable.js";

interface BatchOptions extends ModelOptions, ResultOptions, BatchShape {
  readonly sequences: number;
  readonly runs: number;
}

/** As `millrace batch` has them: requests under way for each that runs, and tokens of which prefixes are shared whole. */
const AHEAD = 2;
const PAGE = 16;

export function benchBatchCommand(): Command {
  const number = (flags: string, description: string, fallback: number) =>
    new Option(flags, description).argParser(count).default(fallback);
  const command = new Command("batch")
    .summary("answer prompts that share prefixes, in planned order and as they come")
    .description(
      "Answers the same prompts three times, each time on a freshly opened model: as they come without sharing, as they " +
        "come with the prefix tree (which gives up what was used least recently), and in the order that millrace batch " +
        "plans. Prompts come in random order; memory is what the cache of --sequences requests takes, unless --memory says " +
        "otherwise. With --groups 1 all prompts share one prefix, which no order can lose.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Batch:")
    .addOption(number("--prompts <n>", "prompts", 1000))
    .addOption(number("--groups <n>", "prefixes, each shared by an equal part of the prompts", 50))
    .addOption(number("--prefix <tokens>", "length of each", 500))
    .addOption(number("--suffix <tokens>", "what follows it, each prompt's own", 20))
    .addOption(number("--answer <tokens>", "length of an answer, on average", 16))
    .addOption(number("--seed <n>", "start of the random sequence", 1))
    .addOption(number("--sequences <n>", "requests that run at once", 16))
    .addOption(number("--runs <n>", "times that each order runs", 1));
  return addResultOptions(addModelOptions(command), false).action(
    async (named: string | undefined, options: BatchOptions) => {
      await bench(modelSource(named), options);
    },
  );
}

type Round = Readonly<Record<BatchOrder, BatchRun>>;

async function bench(source: string, options: BatchOptions): Promise<void> {
  const { prompts: numPrompts, groups, prefix, suffix, answer, seed, sequences, runs } = options;
  if (groups > numPrompts) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `${groups} groups of ${numPrompts} prompts; give fewer --groups.`,
      {
        groups,
        prompts: numPrompts,
      },
    );
  }
  const shape = { prompts: numPrompts, groups, prefix, suffix, answer, seed };
  const opened = {
    ...openOptions({ ...options, context: options.context ?? prefix + suffix + 2 * answer }),
    sequences,
  };
  using stop = stoppable();
  const { signal } = stop;
  let info: ModelInfo | null = null;
  const run = async (order: BatchOrder, round: number): Promise<BatchRun> => {
    await using model = await openModel(source, { ...opened, prefixCache: order !== "alone" });
    info = model.info;
    await model.generate([1, 2, 1, 2], { maxTokens: 8, temperature: 0, ignoreEos: true }).result;
    const tell = seldom();
    const result = await runPrompts(model, sharingPrompts(shape, model.info.vocabularySize), {
      planned: order === "planned",
      concurrency: AHEAD * sequences,
      page: PAGE,
      signal,
      onProgress: (done) =>
        tell(() => `run ${round + 1}, ${NAMES[order]}: ${done} of ${numPrompts} answered`),
    });
    say(
      `run ${round + 1}, ${NAMES[order]}: ${result.seconds.toFixed(1)} s, ${speedOf(result).toFixed(0)} tokens/s`,
    );
    return result;
  };

  const rounds: Round[] = [];
  const partial: Partial<Record<BatchOrder, BatchRun>> = {};
  for (let round = 0; round < runs && !signal.aborted; round++) {
    const runOf: Partial<Record<BatchOrder, BatchRun>> = {};
    // In turn who begins: what drifts hits all alike.
    for (let i = 0; i < BATCH_ORDERS.length && !signal.aborted; i++) {
      const order = BATCH_ORDERS[(i + round) % BATCH_ORDERS.length]!;
      await unlessStopped(signal, async () => {
        runOf[order] = await run(order, round);
      });
    }
    if (signal.aborted) Object.assign(partial, runOf);
    else rounds.push(runOf as Round);
  }
  const ratio = (to: BatchOrder) =>
    median(rounds.map((round) => speedOf(round.planned) / speedOf(round[to])));
  const { path = source, backend, memory } = (info as ModelInfo | null) ?? {};
  const report = {
    model: path,
    backend: backend?.description ?? "",
    cacheBytes: memory?.cacheBytes ?? 0,
    ...shape,
    sequences,
    complete: rounds.length === runs,
    orders: Object.fromEntries(
      BATCH_ORDERS.map((order) => [order, summary(rounds.map((round) => round[order]))]),
    ) as Readonly<Record<BatchOrder, Summary>>,
    ratio: { alone: ratio("alone"), lru: ratio("lru") },
    rounds,
    ...(Object.keys(partial).length > 0 ? { partial } : {}),
  };
  await deliver(options, report, print(report));
}

const NAMES: Readonly<Record<BatchOrder, string>> = {
  alone: "as they come, nothing shared",
  lru: "as they come, LRU sharing",
  planned: "planned, sharing",
};

/** Tokens of prompts and answers that were served, run or not, per second. */
const speedOf = ({ promptTokens, generatedTokens, seconds }: BatchRun): number =>
  (promptTokens + generatedTokens) / seconds;

interface Summary {
  readonly tokensPerSecond: number;
  readonly seconds: number;
  readonly shared: number;
}

/** Medians over runs. */
const summary = (runs: readonly BatchRun[]): Summary => ({
  tokensPerSecond: median(runs.map(speedOf)),
  seconds: median(runs.map(({ seconds }) => seconds)),
  shared: median(runs.map(({ cachedTokens, promptTokens }) => cachedTokens / promptTokens)),
});

interface Report extends BatchShape {
  readonly model: string;
  readonly backend: string;
  readonly sequences: number;
  readonly complete: boolean;
  readonly orders: Readonly<Record<BatchOrder, Summary>>;
  readonly ratio: { readonly alone: number; readonly lru: number };
}

function print(report: Report): string {
  const ratios = { alone: report.ratio.alone, lru: report.ratio.lru, planned: 1 };
  return [
    bold(
      `${plural(report.prompts, "prompt")}, shared prefixes: ${report.groups} of ${report.prefix} tokens; on ${basename(report.model)}`,
    ),
    `${report.backend}; ${report.sequences} at once, ${report.suffix} tokens after the prefix, answers of about ${report.answer}`,
    "",
    table(
      [
        ["", "tokens/s", "seconds", "prompt tokens shared", "planned is faster"],
        ...BATCH_ORDERS.map((order) => {
          const { tokensPerSecond, seconds, shared } = report.orders[order];
          return [
            NAMES[order],
            tokensPerSecond.toFixed(0),
            seconds.toFixed(1),
            `${(100 * shared).toFixed(1)} %`,
            `${ratios[order].toFixed(2)} x`,
          ];
        }),
      ],
      ["left", "right", "right", "right", "right"],
    ),
    ...(report.complete ? [] : ["", "Stopped before the end."]),
  ].join("\n");
}
