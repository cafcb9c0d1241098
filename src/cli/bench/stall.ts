/** `millrace bench stall`: how long streams stall while somebody else's long prompt is run. */
import { basename } from "node:path";
import { Argument, Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import { PEERS, type PeerName, startPeer } from "../../bench/peer.js";
import {
  type StallArrivals,
  type StallFigures,
  type StallWork,
  stallFigures,
  stallOf,
} from "../../bench/stall.js";
import type { CodecName } from "../../cache/codecs/contract.js";
import { parseDuration } from "../../engine/duration.js";
import { median } from "../../evaluate/median.js";
import type { Model, StallReport } from "../../index.js";
import { openModel } from "../open-model.js";
import { backendOption, count, threadsOption } from "../options.js";
import { addResultOptions, deliver, type ResultOptions } from "../results.js";
import { bold, plural, say, table } from "../terminal.js";
import { addShapeOptions, madeModel, type ShapeOptions } from "./made-model.js";
import { stoppable, unlessStopped } from "./stoppable.js";

interface StallOptions extends ShapeOptions, ResultOptions {
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly codec: CodecName;
  readonly streams: number;
  readonly prefill: number;
  readonly prompt: number;
  readonly maxStall: string;
  readonly settle: number;
  readonly room: number;
  readonly runs: number;
  readonly against?: PeerName;
}

export function stallCommand(): Command {
  const number = (flags: string, description: string, fallback: number) =>
    new Option(flags, description).argParser(count).default(fallback);
  const command = new Command("stall")
    .summary("measure how long streams wait while a long prompt is run beside them")
    .description(
      "Streams decode at once; when all have had --settle tokens, a long prompt arrives. Measures the times between two " +
        "tokens of a stream until the prompt's first token, with the bound of --max-stall, without one, and of a peer, in " +
        "turn in one run. Without MODEL, a random-weight file of the given shape is made once and kept in the cache folder.",
    )
    .addArgument(new Argument("[model]", "GGUF file, safetensors folder or hf:owner/repo/file"));
  addShapeOptions(command)
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option("--codec <name>", "how keys and values are kept")
        .choices(["f32", "f16", "int8"])
        .default("f16"),
    )
    .addOption(number("--streams <n>", "streams that decode", 8))
    .addOption(number("--prefill <tokens>", "length of the prompt that arrives", 4000))
    .addOption(number("--prompt <tokens>", "length of the streams' own prompts", 32))
    .addOption(new Option("--max-stall <time>", "the bound").default("200ms"))
    .addOption(number("--settle <tokens>", "tokens of each stream before the prompt and after it", 16))
    .addOption(number("--room <tokens>", "most tokens that a stream can have", 4000))
    .addOption(number("--runs <n>", "counted runs of each, after a short one that is not counted", 3))
    .addOption(new Option("--against <peer>", "also run this peer, in turn").choices(PEERS));
  return addResultOptions(command, false).action(async (named: string | undefined, options: StallOptions) => {
    await bench(named, options);
  });
}

/** Who runs, and what came of it. */
interface Side {
  readonly name: string;
  readonly figures: StallFigures[];
  run(work: StallWork): Promise<StallArrivals>;
}

async function bench(named: string | undefined, options: StallOptions): Promise<void> {
  const { streams, prefill, prompt, settle, room, runs, against } = options;
  const boundMs = parseDuration(options.maxStall, "--max-stall");
  using stop = stoppable();
  const source = named ?? (await madeModel(options));
  const open = (maxStall?: number): Promise<Model> =>
    openModel(source, {
      backend: options.backend,
      context: Math.max(prefill, prompt + room) + settle,
      sequences: streams + 1,
      cache: { codec: options.codec },
      // Every run shall run all of its prompts.
      prefixCache: false,
      ...(options.threads === undefined ? {} : { threads: options.threads }),
      ...(maxStall === undefined ? {} : { maxStall }),
    });
  await using bounded = await open(boundMs);
  await using unbounded = await open();
  const { path, backend, vocabularySize, context } = bounded.info;
  const { threads } = backend;
  await using peer = against
    ? await startPeer(against, { path, threads, contextSize: context, sequences: streams + 1 })
    : null;
  const ours = (name: string, model: Model): Side => ({
    name,
    figures: [],
    run: (work) => stallOf(model, work, stop.signal),
  });
  const sides = [ours(`millrace, at most ${boundMs} ms`, bounded), ours("millrace, no bound", unbounded)];
  if (peer) sides.push({ name: peer.name, figures: [], run: peer.stall });
  const work = makeWork(options, vocabularySize);
  for (const side of sides) {
    say(`${side.name}: a short run first`);
    await unlessStopped(stop.signal, async () => {
      await side.run({ ...work, late: work.late.slice(0, Math.ceil(prefill / 8)) });
    });
  }
  for (let round = 0; round < runs && !stop.signal.aborted; round++) {
    for (let i = 0; i < sides.length; i++) {
      const side = sides[(i + round) % sides.length]!;
      await unlessStopped(stop.signal, async () => {
        const figures = stallFigures(await side.run(work));
        side.figures.push(figures);
        const { during, firstTokenMs } = figures;
        say(
          `run ${round + 1} of ${runs}, ${side.name}: longest gap ${ms(during.max)}, p99 ${ms(during.p99)}; the prompt took ${(firstTokenMs / 1000).toFixed(1)} s`,
        );
      });
    }
  }
  const report = {
    model: path,
    backend: backend.description,
    streams,
    prefill,
    settle,
    boundMs,
    complete: sides.every(({ figures }) => figures.length === runs),
    peer: peer?.description ?? null,
    /** How the engine itself saw its bound kept, short runs included. */
    stalls: (await bounded.usage()).stalls,
    sides: sides.map(({ name, figures }) => ({ name, ...overall(figures), runs: figures })),
  };
  await deliver(options, report, print(report));
}

function makeWork(
  { streams, prefill, prompt, settle, room }: StallOptions,
  vocabularySize: number,
): StallWork {
  const first = Math.min(300, vocabularySize >> 1);
  const ids = (length: number, which: number) =>
    Array.from({ length }, (_, at) => first + ((at * 7919 + which * 104729) % (vocabularySize - first)));
  const prompts = Array.from({ length: streams }, (_, stream) => ids(prompt, stream));
  return { prompts, late: ids(prefill, streams), settle, most: room };
}

interface Overall {
  /** Medians over runs; `longestGapMs` is that of all runs. */
  readonly gapBeforeMs: number;
  readonly gapMs: { readonly p50: number; readonly p99: number };
  readonly longestGapMs: number;
  readonly firstTokenMs: number;
  readonly tokensPerSecondBefore: number;
  readonly tokensPerSecondDuring: number;
}

function overall(runs: readonly StallFigures[]): Overall {
  const of = (pick: (figures: StallFigures) => number) => median(runs.map(pick));
  return {
    gapBeforeMs: of(({ before }) => before.p50),
    gapMs: { p50: of(({ during }) => during.p50), p99: of(({ during }) => during.p99) },
    longestGapMs: Math.max(...runs.map(({ during }) => during.max)),
    firstTokenMs: of(({ firstTokenMs }) => firstTokenMs),
    tokensPerSecondBefore: of(({ tokensPerSecondBefore }) => tokensPerSecondBefore),
    tokensPerSecondDuring: of(({ tokensPerSecondDuring }) => tokensPerSecondDuring),
  };
}

interface Report {
  readonly model: string;
  readonly backend: string;
  readonly streams: number;
  readonly prefill: number;
  readonly boundMs: number;
  readonly complete: boolean;
  readonly peer: string | null;
  readonly stalls: StallReport | null;
  readonly sides: readonly (Overall & { readonly name: string })[];
}

function print({ model, backend, streams, prefill, boundMs, complete, peer, stalls, sides }: Report): string {
  return [
    bold(`${plural(streams, "stream")}, and a prompt of ${plural(prefill, "token")}: ${basename(model)}`),
    backend,
    ...(peer === null ? [] : [peer]),
    "",
    table(
      [
        ["", "gap before", "meanwhile p50", "p99", "longest", "tokens/s before", "meanwhile", "prompt"],
        ...sides.map((side) => [
          side.name,
          ...[side.gapBeforeMs, side.gapMs.p50, side.gapMs.p99, side.longestGapMs].map(ms),
          ...[side.tokensPerSecondBefore, side.tokensPerSecondDuring].map((value) => value.toFixed(1)),
          `${(side.firstTokenMs / 1000).toFixed(1)} s`,
        ]),
      ],
      ["left", ...Array.from({ length: 7 }, () => "right" as const)],
    ),
    "",
    "Gaps are between two tokens of one stream as they reach the caller; medians of runs, and the longest of all.",
    ...(stalls === null
      ? []
      : [
          `By the engine's own clock ${stalls.exceeded} of ${plural(stalls.steps, "step")} beside a prompt exceeded ${boundMs} ms, the longest gap was ${ms(stalls.longestMs)}` +
            (stalls.hopeless > 0
              ? `; in ${stalls.hopeless} of them no chunk was short enough for the bound.`
              : "."),
        ]),
    ...(complete ? [] : ["Stopped before the end."]),
  ].join("\n");
}

const ms = (value: number): string => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
