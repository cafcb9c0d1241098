/** `millrace evaluate recall`: what cache policies still know of what a log has said. */
import { basename } from "node:path";
import { Command, Option } from "commander";
import { formatBytes } from "../../engine/bytes.js";
import { MillraceError } from "../../errors.js";
import { MOST_ANSWER_TOKENS } from "../../evaluate/answers.js";
import { LEAST, type Sizing } from "../../evaluate/budgets.js";
import {
  bucketOf,
  type Examinee,
  examineStream,
  examineWindows,
  type RecallResult,
} from "../../evaluate/recall.js";
import { heldOutQuestions } from "../../evaluate/world-stream.js";
import type { Panel } from "../../plot/plot.js";
import type { Model } from "../../session/model.js";
import { recallSpec } from "../../session/recall.js";
import type { Tokenizer } from "../../tokenizer/contract.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import { count, modelArgument, modelSource } from "../options.js";
import { type Progress, progressBar } from "../progress.js";
import { deliver } from "../results.js";
import { bold, plural, table } from "../terminal.js";
import {
  addEvaluationOptions,
  budgetOption,
  type CacheNaming,
  cacheOption,
  cachePolicies,
  type EvaluationOptions,
  evaluationModel,
  headsOf,
  percentage,
  type RecallFlag,
  recallOption,
  shares,
} from "./flags.js";
import { openTokenizer, seed } from "./world.js";

interface RecallFlags extends EvaluationOptions, RecallFlag {
  readonly cache?: readonly string[];
  readonly budget?: readonly number[];
  readonly share: readonly number[];
  readonly within: number;
  readonly tokens?: number;
  readonly questions: number;
  readonly from: number;
  readonly to?: number;
  readonly seed: number;
  readonly control: boolean;
}

const EXAMPLES = `
Examples:
  millrace evaluate recall --share 0.2,0.5 --cache full,sinks,snapkv,h2o
  millrace evaluate recall --tokens 120000 --budget 1024 --cache sinks \\
    --recall "1 GiB" --plot recall.svg --out recall.json

Without --tokens every question stands at the end of a log of its own, as long as
the model's context holds; with it, all stand in one log of that length, and
reach back as far as it goes.`;

const POLICIES = "full,sinks,window,h2o,snapkv,keyformer,kvmerger,lacache";
const LEAST_EVERY = 10;

export function recallCommand(): Command {
  const command = new Command("recall")
    .summary("ask about what a log said, near and far back, under several cache policies")
    .description(
      "Has MODEL read the log of the harbour town under each cache policy and asks it questions: the share that is " +
        "answered right, by how many tokens ago the fact was last stated, and the perplexity of the log.",
    )
    .addArgument(modelArgument())
    .optionsGroup("Questions:")
    .addOption(new Option("--questions <n>", "how many").argParser(count).default(200))
    .addOption(
      new Option("--within <tokens>", "in logs of their own: farthest back that facts were stated")
        .argParser(count)
        .default(900),
    )
    .addOption(new Option("--tokens <n>", "one log of this length, for all of them").argParser(count))
    .addOption(
      new Option("--from <words>", "in one log: nearest that questions reach").argParser(count).default(10),
    )
    .addOption(
      new Option("--to <words>", "in one log: farthest that they reach (default: its length)").argParser(
        count,
      ),
    )
    .addOption(new Option("--seed <n>", "which log and questions").argParser(seed).default(1))
    .addOption(
      new Option(
        "--no-control",
        "in one log: leave out the full cache that reads the last --within tokens anew for every question",
      ),
    )
    .optionsGroup("Caches:")
    .addOption(cacheOption())
    .addOption(
      new Option("--share <list>", "tokens that policies given by name alone keep, as shares of --within")
        .argParser(shares)
        .default([0.2, 0.5], "0.2,0.5"),
    )
    .addOption(budgetOption().conflicts("share"))
    .addOption(recallOption("examine caches that lose tokens also with this much disk: "))
    .addHelpText("after", EXAMPLES);
  return addEvaluationOptions(command).action(async (named: string | undefined, flags: RecallFlags) => {
    await evaluate(modelSource(named), flags);
  });
}

async function evaluate(source: string, flags: RecallFlags): Promise<void> {
  const { tokens, within, seed, questions, codec } = flags;
  const tokenizer = await openTokenizer(source);
  await using model = await openModel(source, evaluationModel(flags));
  const budgets = flags.budget ?? flags.share.map((share) => Math.round(share * within));
  const sizing = { of: tokens === undefined ? within : null, heads: await headsOf(source) };
  const unfit: string[] = [];
  const label = flags.budget
    ? String
    : (budget: number) => percentage(flags.share[budgets.indexOf(budget)] ?? Number.NaN);
  const caches = examinees(flags, budgets, sizing, {
    label,
    tellUnfit: ({ message }) => unfit.push(message),
  });
  const bar = progressBar(
    "asking",
    tokens === undefined ? (total) => plural(total, "question") : (total) => plural(total, "token"),
  );
  const startedAt = performance.now();
  const results = await ask(model, tokenizer, caches, flags, bar);
  const seconds = (performance.now() - startedAt) / 1000;
  const { path, backend } = model.info;
  const where = tokens === undefined ? { within, questions } : { tokens };
  const figures = {
    model: path,
    backend: backend.description,
    codec,
    seed,
    ...where,
    seconds,
    results,
    unfit,
  };
  const title = `${basename(path)}, ${tokens === undefined ? "a log for each question" : `one log of ${plural(tokens, "token")}`}`;
  await deliver(flags, figures, print(title, results, unfit), pictures(title, results, label));
}

/**
 * The caches that were asked for; where there is a disk, those that lose tokens also with it. What is recalled takes its
 * place among the tokens of the budget.
 */
function examinees(
  flags: RecallFlags,
  budgets: readonly number[],
  sizing: Sizing,
  naming: CacheNaming,
): Examinee[] {
  const { codec, memory, recall } = flags;
  const cut = (sizes: readonly number[]) => cachePolicies(flags.cache, POLICIES, sizes, sizing, naming);
  const recalled = recall ? recallSpec(recall, null).tokens : 0;
  const beside = recall ? cut(budgets.map((tokens) => besideRecalled(tokens, recalled))) : [];
  return cut(budgets).flatMap((sized): Examinee[] => {
    const { policy, budget } = sized;
    const plain = { ...sized, codec, ...(memory === undefined ? {} : { memory }) };
    const smaller =
      budget === null
        ? sized
        : beside.find((each) => each.policy.policy === policy.policy && each.budget === budget - recalled);
    if (!recall || !smaller || policy.policy === "full") return [plain];
    return [plain, { ...plain, name: `${sized.name} + disk`, policy: smaller.policy, recall }];
  });
}

/** Tokens that a cache of `tokens` has beside those recalled. */
function besideRecalled(tokens: number, recalled: number): number {
  if (tokens - recalled >= LEAST) return tokens - recalled;
  throw new MillraceError(
    "INVALID_ARGUMENT",
    `A cache of ${tokens} tokens has no room for ${recalled} that are recalled and ${LEAST} beside them; give a larger ` +
      '--budget, or fewer to recall: --recall "disk=1GiB,tokens=64".',
    { tokens, recalled },
  );
}

async function ask(
  model: Model,
  tokenizer: Tokenizer,
  caches: readonly Examinee[],
  { tokens, within, seed, questions, from, to, control }: RecallFlags,
  bar: Progress,
): Promise<RecallResult[]> {
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const options = {
    signal: abort.signal,
    onProgress: (done: number, total: number) => bar.update(done, total),
  };
  try {
    if (tokens === undefined) {
      const promptTokens = model.info.context - MOST_ANSWER_TOKENS;
      const asked = heldOutQuestions(tokenizer, { seed, count: questions, within, promptTokens });
      return await examineWindows(model, tokenizer, caches, asked, options);
    }
    const every = Math.max(LEAST_EVERY, tokens / questions);
    const range = { from, to: to ?? tokens, spread: "logarithmic" } as const;
    return await examineStream(model, tokenizer, caches, {
      ...options,
      tokens,
      seed,
      questions: { every, ...range },
      beside: control ? within : null,
    });
  } finally {
    bar.stop();
  }
}

const percent = (right: number, questions: number) =>
  questions === 0 ? "-" : `${((100 * right) / questions).toFixed(1)} %`;
const thousands = (value: number) => Math.round(value).toLocaleString("en-US");

function print(title: string, results: readonly RecallResult[], unfit: readonly string[]): string {
  const buckets = new Map(results.flatMap(({ buckets }) => buckets.map((each) => [each.from, each.to])));
  const ranges = [...buckets].sort(([a], [b]) => a - b);
  const row = ({ name, kept, questions, right, buckets, perplexity, bytes, firstTokenMs }: RecallResult) => [
    name,
    questions === 0 ? "-" : thousands(kept),
    questions === 0 ? "-" : formatBytes(bytes),
    percent(right, questions),
    ...ranges.map(([from]) => {
      const bucket = buckets.find((each) => each.from === from);
      return bucket ? percent(bucket.right, bucket.questions) : "-";
    }),
    Number.isNaN(perplexity) ? "-" : perplexity.toFixed(3),
    questions === 0 ? "-" : `${firstTokenMs.toFixed(1)} ms`,
  ];
  const head = [
    "cache",
    "kept",
    "bytes",
    "right",
    ...ranges.map(([from, to]) => (from === 0 ? `below ${to}` : `${short(from!)}-${short(to!)}`)),
    "perplexity",
    "first token",
  ];
  const align = head.map((_, i) => (i === 0 ? "left" : "right"));
  const most = results.reduce((a, b) => (b.questions > a.questions ? b : a));
  const ends = results.flatMap(({ name, ended, tokens }) =>
    ended ? [`  ${name} ended after ${plural(tokens, "token")} of log: ${ended.code}`] : [],
  );
  return [
    bold(`Recall: ${title}`),
    `${plural(most.questions, "question")}; right answers by tokens since the fact was stated`,
    table([head, ...results.map(row)], align),
    ...ends,
    ...unfit.map((reason) => `  ${reason}`),
  ].join("\n");
}

const short = (tokens: number) => (tokens >= 1000 ? `${tokens / 1000}k` : String(tokens));

/** A picture for each size of cache, with those beside it that have none. */
function pictures(
  title: string,
  results: readonly RecallResult[],
  label: (budget: number) => string,
): Panel[] {
  const budgets = [...new Set(results.map(({ budget }) => budget))].filter((budget) => budget !== null);
  if (budgets.length < 2) return [picture(`Recall: ${title}`, results)];
  return budgets.map((size) => {
    const shown = results.filter(({ budget }) => budget === null || budget === size);
    return picture(`Recall, caches of ${label(size)}: ${title}`, shown);
  });
}

const picture = (title: string, results: readonly RecallResult[]): Panel => ({
  title,
  x: { label: "tokens since the fact was stated", scale: "log" },
  y: { label: "right answers, percent", from: 0, to: 100 },
  series: results.map(({ name, policy, buckets }) => ({
    name,
    group: name.endsWith(" + disk") ? `${policy.policy} + disk` : policy.policy,
    style: "marks",
    points: buckets.map(({ from, right, questions }) => [middleOf(from), (100 * right) / questions]),
  })),
});

/** Where a bucket is drawn: in its middle, by factors. */
const middleOf = (from: number): number => {
  const { to } = bucketOf(from);
  return Math.sqrt(Math.max(25, from) * to);
};
