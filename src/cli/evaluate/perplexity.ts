/** `millrace evaluate perplexity`: what cache policies make of a text of any length. */
import { basename } from "node:path";
import { Argument, Command, Option } from "commander";
import { UNKNOWN_HEADS } from "../../cache/policies/split.js";
import { full } from "../../engine/policies.js";
import {
  type StreamPerplexity,
  type StreamReader,
  streamPerplexity,
  textTokens,
} from "../../evaluate/perplexity.js";
import type { Panel } from "../../plot/plot.js";
import { onInterrupt } from "../interrupt.js";
import { openModel } from "../open-model.js";
import { count, modelSource } from "../options.js";
import { progressBar } from "../progress.js";
import { deliver } from "../results.js";
import { bold, plural, table } from "../terminal.js";
import {
  addEvaluationOptions,
  budgetOption,
  cacheOption,
  cachePolicies,
  type EvaluationOptions,
  evaluationModel,
} from "./flags.js";
import { openTokenizer } from "./world.js";

interface PerplexityFlags extends EvaluationOptions {
  readonly cache?: readonly string[];
  readonly budget?: readonly number[];
  readonly tokens: number;
  readonly warmUp?: number;
  readonly segments: number;
  readonly control: boolean;
}

const EXAMPLES = `
Examples:
  millrace evaluate perplexity model.gguf book.txt --tokens 200000
  millrace evaluate perplexity model.gguf book.txt --budget 1024 \\
    --cache full,window,sinks,h2o --plot perplexity.svg --out perplexity.json

All policies read the text side by side. Memory stays the same however long it is.`;

export function perplexityCommand(): Command {
  const command = new Command("perplexity")
    .summary("read a text of any length under several cache policies")
    .description(
      "Reads FILE through one session per cache policy and tells the perplexity over the stream: in segments, of the " +
        "first tenth after a warm-up, and of the last. Beside them stands what the text itself gives, by a full cache " +
        "that begins anew again and again: a policy that stands endless streams has the same from first to last as that.",
    )
    .addArgument(new Argument("<model>", "GGUF file, safetensors file or folder, or hf:owner/repo[/file]"))
    .addArgument(new Argument("<file>", "text, UTF-8"))
    .optionsGroup("Stream:")
    .addOption(new Option("--tokens <n>", "how much is read, at most").argParser(count).default(100_000))
    .addOption(cacheOption())
    .addOption(budgetOption())
    .addOption(
      new Option("--warm-up <n>", "tokens before the first tenth (default: the model's context)").argParser(
        count,
      ),
    )
    .addOption(new Option("--segments <n>", "parts of the stream").argParser(count).default(20))
    .addOption(
      new Option(
        "--no-control",
        'leave out "anew": a full cache that begins again whenever --budget tokens are in it',
      ),
    )
    .addHelpText("after", EXAMPLES);
  return addEvaluationOptions(command).action(
    async (source: string, file: string, flags: PerplexityFlags) => {
      await evaluate(modelSource(source), file, flags);
    },
  );
}

async function evaluate(source: string, file: string, flags: PerplexityFlags): Promise<void> {
  const { tokens, segments, codec, memory } = flags;
  const tokenizer = await openTokenizer(source);
  await using model = await openModel(source, evaluationModel(flags));
  const { context, backend } = model.info;
  const policies = cachePolicies(flags.cache, "sinks,window", flags.budget ?? [context], {
    of: null,
    heads: UNKNOWN_HEADS,
  });
  const limit = memory === undefined ? {} : { memory };
  const readers: StreamReader[] = policies.map(({ name, policy }) => ({
    name,
    session: model.session({ cache: { policy, codec }, ...limit }),
  }));
  const anewEvery = Math.min(context, ...(flags.budget ?? []));
  if (flags.control)
    readers.push({ name: `anew`, session: model.session({ cache: { policy: full(), codec } }), anewEvery });
  const abort = new AbortController();
  using _interrupt = onInterrupt(() => abort.abort());
  const bar = progressBar("reading", (total) => plural(total, "token"));
  const startedAt = performance.now();
  let read: StreamPerplexity[];
  try {
    read = await streamPerplexity(readers, textTokens(file, tokenizer), {
      tokens,
      segments,
      warmUp: Math.min(flags.warmUp ?? context, Math.floor(tokens / 2)),
      signal: abort.signal,
      onProgress: (done) => bar.update(done, tokens),
    });
  } finally {
    bar.stop();
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const control = flags.control ? read.at(-1)! : null;
  const caches = read.map((each, i) => {
    const ratio = each.last / each.first;
    const besideAnew = control ? ratio / (control.last / control.first) : null;
    return { ...each, policy: policies[i]?.policy ?? null, ratio, besideAnew };
  });
  const figures = { model: model.info.path, file, backend: backend.description, codec, seconds, caches };
  const title = `${basename(model.info.path)} reads ${basename(file)}`;
  await deliver(flags, figures, print(title, caches), [picture(title, caches)]);
}

type Cache = StreamPerplexity & { readonly ratio: number; readonly besideAnew: number | null };

function print(title: string, caches: readonly Cache[]): string {
  const number = (value: number | undefined, digits = 2) =>
    value === undefined || Number.isNaN(value) ? "-" : value.toFixed(digits);
  const row = (name: string, of: (cache: Cache) => string) => [name, ...caches.map(of)];
  const longest = caches.reduce((a, b) => (b.segments.length > a.segments.length ? b : a));
  const rows = [
    row("tokens", ({ name }) => name),
    ...longest.segments.map(({ from, to }, i) =>
      row(`${from.toLocaleString("en-US")} to ${to.toLocaleString("en-US")}`, ({ segments }) =>
        number(segments[i]?.perplexity),
      ),
    ),
    row("first tenth", ({ first }) => number(first)),
    row("last tenth", ({ last }) => number(last)),
    row("last / first", ({ ratio }) => number(ratio, 3)),
    ...(caches.some(({ besideAnew }) => besideAnew !== null)
      ? [row("  beside that of anew", ({ besideAnew }) => number(besideAnew ?? Number.NaN, 3))]
      : []),
    row("all that was read", ({ perplexity }) => number(perplexity)),
  ];
  const align = ["left" as const, ...caches.map(() => "right" as const)];
  const ends = caches.flatMap(({ name, tokens, ended }) =>
    ended ? [`  ${name} ended after ${plural(tokens, "token")}: ${ended.code}`] : [],
  );
  return [bold(`Perplexity: ${title}`), table(rows, align), ...ends].join("\n");
}

function picture(title: string, caches: readonly Cache[]): Panel {
  return {
    title: `Perplexity: ${title}`,
    x: { label: "tokens read", from: 0 },
    y: { label: "perplexity", scale: "log" },
    series: caches.map(({ name, segments }) => ({
      name,
      style: "marks",
      points: segments.map(({ to, perplexity }) => [to, perplexity]),
    })),
  };
}
