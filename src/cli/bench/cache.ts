/** `millrace bench cache`: what cache policies save of memory and of the time to decode a token, beside the full cache. */
import { basename } from "node:path";
import { Argument, Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import {
  type CacheSide,
  decodeInTurn,
  type Turn,
  type Turns,
  tokensOfTurns,
} from "../../bench/cache-turns.js";
import { drawHeads, headByHead } from "../../bench/drawn-heads.js";
import { measureModel } from "../../bench/model-size.js";
import { MachineProbe } from "../../bench/probe.js";
import type { CodecName } from "../../cache/codecs/contract.js";
import { formatPolicy, type PolicySpec } from "../../cache/policies/resolve.js";
import type { ModelHeads } from "../../cache/policies/split.js";
import { formatBytes } from "../../engine/bytes.js";
import { readHeads } from "../../engine/heads-file.js";
import { full } from "../../engine/policies.js";
import { MillraceError } from "../../errors.js";
import { median } from "../../evaluate/median.js";
import { resolveModelPath } from "../../formats/hub.js";
import { openCheckpoint } from "../../formats/open.js";
import { buildTape } from "../../models/resolve.js";
import { cachePolicies, counts, percentage, shares } from "../evaluate/flags.js";
import { openModel } from "../open-model.js";
import { another, backendOption, count, threadsOption } from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, plural, say, table } from "../terminal.js";
import { addShapeOptions, madeModel, type ShapeOptions } from "./made-model.js";
import { seldom, stoppable, unlessStopped } from "./stoppable.js";

interface Options extends ShapeOptions, ResultOptions {
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly context: readonly number[];
  readonly cache?: readonly string[];
  readonly share: readonly number[];
  readonly codec: CodecName;
  readonly generate: number;
  readonly runs: number;
}

const POLICIES = "razor,duo";
/** What decoding takes with next to nothing in the cache. */
const EMPTY = "empty";
/** Of heads that are drawn. */
const SEED = 1;

const EXAMPLES = `
Examples:
  millrace bench cache --context 2048,8192
  millrace bench cache --shape 160m --cache sinks,h2o,tokenselect --share 0.2
  millrace bench cache model.gguf --cache razor,duo:keep=0.25,recent=256

Heads that retrieve keep everything under razor and duo. Of a model of which they
were not found out (millrace heads), they are drawn at random, as many as there
would be: for memory and speed it does not matter which they are.`;

export function cacheCommand(): Command {
  const command = new Command("cache")
    .summary("measure what cache policies save of memory and of decoding")
    .description(
      "Reads so many tokens under each cache policy, and decodes from there, in turn: bytes of the cache and milliseconds " +
        "a token, beside a cache that keeps everything and one that is all but empty. Without MODEL, a random-weight file of the given " +
        "shape is made once and kept in the cache folder.",
    )
    .addArgument(new Argument("[model]", "GGUF file, safetensors folder or hf:owner/repo/file"));
  addShapeOptions(command)
    .addOption(backendOption())
    .addOption(threadsOption())
    .optionsGroup("Caches:")
    .addOption(
      new Option("--context <list>", "tokens that are read first; several with commas")
        .argParser(counts)
        .default([4096], "4096"),
    )
    .addOption(
      new Option(
        "--cache <policies>",
        `policies beside full, with commas between them: by name, cut to --share, or as run takes them (repeatable; default: ${POLICIES})`,
      ).argParser(another),
    )
    .addOption(
      new Option("--share <list>", "tokens that policies given by name alone keep, as shares of --context")
        .argParser(shares)
        .default([0.5], "0.5"),
    )
    .addOption(
      new Option("--codec <name>", "how keys and values are kept")
        .choices(["f32", "f16", "int8"])
        .default("f16"),
    )
    .optionsGroup("Runs:")
    .addOption(
      new Option("--generate <tokens>", "tokens decoded per run, 2 or more").argParser(count).default(32),
    )
    .addOption(
      new Option("--runs <n>", "counted runs of each, in turn, after a short one that is not counted")
        .argParser(count)
        .default(5),
    );
  return addResultOptions(command, false)
    .addHelpText("after", EXAMPLES)
    .action(async (named: string | undefined, options: Options) => {
      await bench(named, options);
    });
}

/** A side as tables show it. */
interface Asked extends CacheSide {
  /** Policy as it was asked for, where its heads are written out in `policy`. */
  readonly spec: PolicySpec;
  /** Heads that keep everything, of all, where the policy tells them apart; and whether these were drawn. */
  readonly heads: { readonly whole: number; readonly of: number; readonly drawn: boolean } | null;
}

async function bench(named: string | undefined, options: Options): Promise<void> {
  const { backend, threads, codec, generate, runs } = options;
  if (generate < 2) {
    const message = "--generate is 1; expected 2 or more: what is measured is the time between tokens.";
    throw new MillraceError("INVALID_ARGUMENT", message, { generate });
  }
  using stop = stoppable();
  const path = await resolveModelPath(named ?? (await madeModel(options)));
  const known = await headsOf(path);
  const unfit = new Set<string>();
  // What cannot be is said before the model is loaded.
  const parts = [...options.context]
    .sort((a, b) => a - b)
    .map((context) => ({ context, sides: sidesOf(context, options, known, unfit) }));
  const { context: longest } = parts.at(-1)!;
  await using model = await openModel(path, {
    backend,
    context: tokensOfTurns(longest, generate, runs) + 1,
    // Sessions take no places of requests.
    sequences: 1,
    ...(threads === undefined ? {} : { threads }),
  });
  const { bytesPerStep } = await measureModel(path, codec);
  using probe = new MachineProbe({ threads: model.info.backend.threads, mebibytes: 512 });
  await probe.measure();
  const contexts: Part[] = [];
  for (const { context, sides } of parts) {
    await unlessStopped(stop.signal, async () => {
      const bandwidth: number[] = [];
      const sayAt = seldom();
      const turns = await decodeInTurn(model, sides, {
        ...{ codec, generate, rounds: runs, signal: stop.signal },
        onFilling: ({ name, tokens }, read) => sayAt(() => `${name}: ${read} of ${tokens} tokens read`),
        onRound: async (round) => {
          bandwidth.push((await probe.measure()).bandwidth);
          const each = round.map(({ msPerToken }, i) => `${sides[i]!.name} ${ms(msPerToken)}`);
          say(`run ${bandwidth.length} of ${runs}, ${context} tokens: ${each.join(", ")} a token`);
        },
      });
      const rows = sides.map((side, i) => rowOf(side, i, turns, { bytesPerStep, bandwidth }));
      contexts.push({ context, rows, gigabytesPerSecond: median(bandwidth) / 1e9, rounds: turns.rounds });
    });
  }
  if (contexts.length === 0) throw new MillraceError("ABORTED", "Stopped before the first run was through.");
  const report = {
    model: path,
    backend: model.info.backend.description,
    codec,
    generate,
    bytesPerStep,
    seed: SEED,
    complete: contexts.length === parts.length && contexts.every(({ rounds }) => rounds.length === runs),
    unfit: [...unfit],
    contexts,
  };
  await deliver(options, report, print(report));
}

/** What is known of the model's heads, and, where that is nothing, heads that are drawn. */
interface Heads {
  readonly heads: ModelHeads;
  readonly drawn: readonly string[];
}

async function headsOf(path: string): Promise<Heads> {
  await using checkpoint = await openCheckpoint(path);
  const { tape } = await buildTape(checkpoint);
  const { scores, gates } = await readHeads(checkpoint, tape);
  const random = drawHeads(tape.kv, SEED);
  return {
    heads: { scores: scores ?? random.scores, gates: gates ?? random.gates },
    drawn: [...(scores ? [] : ["razor"]), ...(gates ? [] : ["duo"])],
  };
}

/** The full cache, those that were asked for, and one that holds next to nothing: what decoding takes without. */
function sidesOf(
  context: number,
  { cache, share }: Options,
  { heads, drawn }: Heads,
  unfit: Set<string>,
): Asked[] {
  const budgets = share.map((each) => Math.round(each * context));
  const policies = cachePolicies(
    cache,
    POLICIES,
    budgets,
    { of: context, heads },
    {
      label: (budget) => percentage(share[budgets.indexOf(budget)]!),
      tellUnfit: ({ message }) => unfit.add(message),
    },
  );
  const whole = { spec: full(), policy: full(), heads: null };
  const asked = policies.map(({ name, policy: spec }): Asked => {
    const written = headByHead(spec, heads);
    const isDrawn = drawn.includes(spec.policy);
    return {
      ...{ name, spec, tokens: context },
      policy: written && isDrawn ? written.policy : spec,
      heads: written && { whole: written.whole, of: written.lanes, drawn: isDrawn },
    };
  });
  return [
    { ...whole, name: "full", tokens: context },
    ...asked.filter(({ spec }) => spec.policy !== "full"),
    { ...whole, name: EMPTY, tokens: 1 },
  ];
}

/** Medians over the rounds; ratios are of the same round. */
interface Row {
  readonly name: string;
  readonly policy: string;
  readonly heads: Asked["heads"];
  readonly bytes: number;
  readonly timesSmaller: number;
  readonly msPerToken: number;
  readonly timesFaster: number;
  readonly cpuMsPerToken: number;
  /** Of the machine's memory bandwidth, if every token reads all weights and all that is kept. */
  readonly shareOfBandwidth: number;
  readonly fillSeconds: number;
}

interface Part {
  readonly context: number;
  readonly rows: readonly Row[];
  /** What the machine reads, measured between the rounds. */
  readonly gigabytesPerSecond: number;
  readonly rounds: Turns["rounds"];
}

function rowOf(
  { name, spec, heads }: Asked,
  index: number,
  { rounds, fillSeconds }: Turns,
  { bytesPerStep, bandwidth }: { readonly bytesPerStep: number; readonly bandwidth: readonly number[] },
): Row {
  const of = (pick: (own: Turn, whole: Turn, round: number) => number) =>
    median(rounds.map((turns, round) => pick(turns[index]!, turns[0]!, round)));
  return {
    name,
    policy: formatPolicy(spec),
    heads,
    bytes: of(({ bytes }) => bytes),
    timesSmaller: of((own, whole) => whole.bytes / own.bytes),
    msPerToken: of(({ msPerToken }) => msPerToken),
    timesFaster: of((own, whole) => whole.msPerToken / own.msPerToken),
    cpuMsPerToken: of(({ cpuMsPerToken }) => cpuMsPerToken),
    shareOfBandwidth: of(
      ({ msPerToken, bytes }, _, round) => (bytesPerStep + bytes) / (msPerToken / 1000) / bandwidth[round]!,
    ),
    fillSeconds: fillSeconds[index]!,
  };
}

interface Report {
  readonly model: string;
  readonly backend: string;
  readonly codec: string;
  readonly generate: number;
  readonly seed: number;
  readonly complete: boolean;
  readonly unfit: readonly string[];
  readonly contexts: readonly Part[];
}

function print({ model, backend, codec, generate, seed, complete, unfit, contexts }: Report): string {
  const drawn = new Set(contexts.flatMap(({ rows }) => rows).flatMap(drawnIn));
  return [
    bold(`Decoding under cache policies: ${basename(model)}`),
    `${backend}; keys and values as ${codec}, ${plural(generate, "token")} a run; medians, ratios of pairs`,
    ...contexts.flatMap(tableOf),
    "",
    `"empty" holds the answer alone: what a token takes without a cache. Of bandwidth: as if every token read all weights and all that is kept.`,
    ...(drawn.size === 0
      ? []
      : [
          `Which heads are whole under ${[...drawn].join(" and ")} was drawn at random (seed ${seed}): nobody found out which of this model ` +
            "retrieve (millrace heads). They are as many as would be; memory and speed do not depend on which they are.",
        ]),
    ...unfit,
    ...(complete ? [] : ["Stopped before the end."]),
  ].join("\n");
}

const drawnIn = ({ policy, heads }: Row): string[] => (heads?.drawn ? [policy.split(":")[0]!] : []);

function tableOf({ context, rows, rounds, gigabytesPerSecond }: Part): string[] {
  const head = [
    "cache",
    "whole heads",
    "bytes",
    "smaller",
    "a token",
    "faster",
    "of processors",
    "of bandwidth",
    "read in",
  ];
  const cells = rows.map((row) => [
    row.name,
    row.heads ? `${row.heads.whole} of ${row.heads.of}` : "",
    formatBytes(row.bytes),
    row.name === EMPTY ? "" : times(row.timesSmaller),
    ms(row.msPerToken),
    times(row.timesFaster),
    ms(row.cpuMsPerToken),
    `${(100 * row.shareOfBandwidth).toFixed(0)} %`,
    row.name === EMPTY ? "" : `${row.fillSeconds.toFixed(1)} s`,
  ]);
  return [
    "",
    `${plural(context, "token")}; ${plural(rounds.length, "run")}, ${gigabytesPerSecond.toFixed(1)} GB/s`,
    table(
      [head, ...cells],
      head.map((_, i) => (i === 0 ? "left" : "right")),
    ),
  ];
}

const times = (value: number): string => `${value.toFixed(2)}x`;
const ms = (value: number): string => `${value.toFixed(value < 10 ? 2 : 1)} ms`;
