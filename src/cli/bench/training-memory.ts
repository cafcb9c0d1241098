/**
 * `millrace bench training-memory`: the longest sequence that a training step has room for, with each way of spending
 * memory, as planned for models of several sizes and as measured in real steps of the smallest.
 */
import { Command, Option } from "commander";
import type { BackendName } from "../../backends/contract.js";
import type { TrainingArithmetic } from "../../backends/training.js";
import { longestFitting } from "../../bench/longest.js";
import { randomCheckpoint } from "../../bench/random-model.js";
import { SHAPES as KNOWN_SHAPES, type Shape } from "../../bench/shapes.js";
import { formatBytes, parseBytes } from "../../engine/bytes.js";
import { MillraceError } from "../../errors.js";
import type { Checkpoint } from "../../formats/checkpoint.js";
import { buildTape } from "../../models/resolve.js";
import type { Tape } from "../../tape/tape.js";
import { openArithmetic } from "../../train/arithmetic.js";
import { type MemoryMode, Network, type NetworkBytes } from "../../train/network.js";
import { backendOption, count, jsonOption, threadsOption } from "../options.js";
import { plural, table, write, writeJson } from "../terminal.js";

interface Flags {
  readonly backend: BackendName | "auto";
  readonly threads?: number;
  readonly memory: string;
  readonly chunk: number;
  readonly json?: boolean;
}

const LLAMA = { architecture: "llama", ropeBase: 10000, tied: true } as const;

/** The first is that of the model in the box. */
const SHAPES: readonly Shape[] = [
  {
    ...LLAMA,
    ...{ name: "width 256, 4 layers", numLayers: 4, embeddingWidth: 256, numHeads: 8, numKvHeads: 4 },
    ...{ headWidth: 32, feedForwardWidth: 768, vocabularySize: 1536, contextLength: 2 ** 20 },
  },
  {
    ...LLAMA,
    ...{ name: "width 512, 12 layers", numLayers: 12, embeddingWidth: 512, numHeads: 8, numKvHeads: 4 },
    ...{ headWidth: 64, feedForwardWidth: 1536, vocabularySize: 8192, contextLength: 2 ** 20 },
  },
  {
    ...LLAMA,
    ...{ name: "width 1024, 16 layers", numLayers: 16, embeddingWidth: 1024, numHeads: 16, numKvHeads: 8 },
    ...{ headWidth: 64, feedForwardWidth: 3072, vocabularySize: 32000, contextLength: 2 ** 20 },
  },
  KNOWN_SHAPES["qwen2.5-0.5b"],
];

/** Sequences are this many tokens or a multiple. */
const STEP = 16;
/** Share of the memory asked for that real steps get. */
const MEASURED = 1 / 16;

const MODES = ["keep", "recompute", "stream", "sparse"] as const;
type ModeName = (typeof MODES)[number];
type PerMode<T> = Readonly<Record<ModeName, T>>;

function modeOf(name: ModeName, chunk: number, { kv }: Tape): MemoryMode {
  if (name === "stream") return { chunk };
  return name === "sparse" ? { chunk, every: Math.ceil(Math.sqrt(kv.length)) } : name;
}

export function trainingMemoryCommand(): Command {
  return new Command("training-memory")
    .summary("find the longest sequences that training has room for")
    .description(
      "The longest sequence that one training step of so much memory has room for, beside weights and gradients, " +
        "where all activations are kept, where each layer's are recomputed (gradient checkpointing), and with " +
        "StreamBP, which recomputes a chunk of tokens at a time; and with StreamBP that keeps the stream at the bounds " +
        "of every so many layers only, as many as the square root of all. Planned for models of several sizes, and measured " +
        `in real steps of the smallest, in ${1 / MEASURED} times less memory.`,
    )
    .addOption(new Option("--memory <size>", "memory of a step").default("1 GiB"))
    .addOption(new Option("--chunk <tokens>", "tokens of StreamBP's chunks").argParser(count).default(256))
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .action((_: unknown, command: Command) => trainingMemory(command.opts<Flags>()));
}

interface Planned {
  readonly name: string;
  /** Bytes of the weights and their gradients, which the memory is beside. */
  readonly weights: number;
  readonly tokens: PerMode<number>;
  /** The longest with recomputing and the logits of all tokens at once, as the paper's baseline has them. */
  readonly tokensWithAllLogits: number;
}

/** One real step. */
interface Measured {
  readonly mode: ModeName;
  readonly tokens: number;
  /** All told: weights and gradients too. */
  readonly plannedBytes: number;
  readonly peakBytes: number;
  readonly seconds: number;
}

async function trainingMemory({ backend, threads, memory, chunk, json }: Flags): Promise<void> {
  const budget = parseBytes(memory);
  const models: { shape: Shape; checkpoint: Checkpoint; tape: Tape }[] = [];
  for (const shape of SHAPES) {
    const checkpoint = randomCheckpoint(shape);
    models.push({ shape, checkpoint, tape: (await buildTape(checkpoint)).tape });
  }
  const planned: Planned[] = [];
  for (const { shape, checkpoint, tape } of models)
    planned.push(await planShape(shape, tape, checkpoint, budget, chunk));

  await using opened = await openArithmetic(backend, threads);
  const { checkpoint, tape } = models[0]!;
  const small = Math.floor(budget * MEASURED);
  const measured: Measured[] = [];
  const longest = await longestOf(tape, checkpoint, small, chunk);
  if (Object.values(longest).includes(0)) {
    throw new MillraceError(
      "INVALID_ARGUMENT",
      `Real steps get a sixteenth of --memory, ${formatBytes(small)}, which has no room for ${STEP} tokens; give more.`,
      { memory: budget },
    );
  }
  for (const mode of MODES)
    measured.push(await measure(opened.arithmetic, tape, checkpoint, mode, longest[mode], chunk));
  // The same sequence in each way: the longest that all have room for.
  const same: Measured[] = [];
  for (const mode of MODES)
    same.push(await measure(opened.arithmetic, tape, checkpoint, mode, longest.keep, chunk));

  const report = {
    budget,
    chunk,
    backend: opened.description,
    planned,
    measuredBudget: small,
    measured,
    same,
  };
  await (json ? writeJson(report) : write(`${print(report)}\n`));
}

/** What exists beside weights and gradients. */
const ofStep = ({ activations, batch }: NetworkBytes): number => activations + batch;

async function longestOf(
  tape: Tape,
  checkpoint: Checkpoint,
  budget: number,
  chunk: number,
): Promise<PerMode<number>> {
  const of = (mode: ModeName): Promise<number> =>
    longestFitting(budget, STEP, async (length) => {
      const options = { sequences: 1, length, memory: modeOf(mode, chunk, tape) };
      return ofStep(await Network.plan(tape, checkpoint, options));
    });
  const [keep, recompute] = [await of("keep"), await of("recompute")];
  return { keep, recompute, stream: await of("stream"), sparse: await of("sparse") };
}

async function planShape(
  shape: Shape,
  tape: Tape,
  checkpoint: Checkpoint,
  budget: number,
  chunk: number,
): Promise<Planned> {
  const { weights, gradients } = await Network.plan(tape, checkpoint, { sequences: 1, length: STEP });
  // At the head: the stream at the layers' bounds, logits of all tokens, and the head's own norm.
  const perToken = 4 * ((shape.numLayers + 2) * shape.embeddingWidth + shape.vocabularySize);
  const tokensWithAllLogits = await longestFitting(budget, STEP, async (length) => {
    const options = { sequences: 1, length, memory: "recompute" } as const;
    return Math.max(ofStep(await Network.plan(tape, checkpoint, options)), perToken * length);
  });
  const tokens = await longestOf(tape, checkpoint, budget, chunk);
  return { name: shape.name, weights: weights + gradients, tokens, tokensWithAllLogits };
}

/** Runs one step, after one that is not counted, and asks the arithmetic for its peak. */
async function measure(
  arithmetic: TrainingArithmetic,
  tape: Tape,
  checkpoint: Checkpoint,
  mode: ModeName,
  length: number,
  chunk: number,
): Promise<Measured> {
  const options = { sequences: 1, length, memory: modeOf(mode, chunk, tape) };
  const plan = await Network.plan(tape, checkpoint, options);
  const tokens = Int32Array.from({ length }, (_, i) => (i * 7919) % tape.logits.width);
  const batch = { tokens, targets: tokens.map((id) => (id + 1) % tape.logits.width) };
  const step = async (): Promise<{ peak: number; seconds: number }> => {
    using network = await Network.create(arithmetic, tape, checkpoint, options);
    arithmetic.resetPeak();
    const start = performance.now();
    await network.accumulate(batch, 1 / length);
    await arithmetic.sync();
    return { peak: arithmetic.bytes.peak, seconds: (performance.now() - start) / 1000 };
  };
  // What the arithmetic keeps for itself afterwards, for sums of norms, is no part of a step.
  await step();
  const own = arithmetic.bytes.current;
  const { peak, seconds } = await step();
  const { weights, gradients } = plan;
  return {
    ...{ mode, tokens: length, seconds },
    ...{ plannedBytes: weights + gradients + ofStep(plan), peakBytes: peak - own },
  };
}

interface Report {
  readonly budget: number;
  readonly chunk: number;
  readonly backend: string;
  readonly planned: readonly Planned[];
  readonly measuredBudget: number;
  readonly measured: readonly Measured[];
  readonly same: readonly Measured[];
}

const LABELS: PerMode<string> = {
  keep: "keep all",
  recompute: "recompute",
  stream: "StreamBP",
  sparse: "StreamBP, sparse",
};

function print({ budget, chunk, backend, planned, measuredBudget, measured, same }: Report): string {
  const times = (a: number, b: number): string => (b > 0 ? `${(a / b).toFixed(1)}x` : "-");
  const right = (n: number) => Array.from({ length: n }, () => "right" as const);
  const steps = (list: readonly Measured[]): string =>
    table(
      [
        ["", "tokens", "planned, all told", "peak of a step", "seconds"],
        ...list.map(({ mode, tokens, plannedBytes, peakBytes, seconds }) => [
          ...[LABELS[mode], String(tokens), formatBytes(plannedBytes), formatBytes(peakBytes)],
          seconds.toFixed(2),
        ]),
      ],
      ["left", ...right(4)],
    );
  return [
    `Longest sequence, in tokens, for which ${formatBytes(budget)} beside weights and gradients is enough (planned;`,
    `StreamBP in chunks of ${plural(chunk, "token")}):`,
    "",
    table(
      [
        ["", "weights", "keep all", "recompute", "the same*", "StreamBP", "sparse", "times longer*"],
        ...planned.map(({ name, weights, tokens, tokensWithAllLogits: all }) => [
          ...[name, formatBytes(weights), String(tokens.keep), String(tokens.recompute), String(all)],
          ...[String(tokens.stream), String(tokens.sparse)],
          [
            ...[tokens.keep, tokens.recompute, all].map((other) => times(tokens.stream, other)),
            ...[tokens.recompute, all].map((other) => times(tokens.sparse, other)),
          ].join(" "),
        ]),
      ],
      ["left", ...right(7)],
    ),
    "",
    "the same*: with the logits of all tokens at once, once in f32 (computed): here no way of spending memory makes them.",
    "times longer*: StreamBP than keeping all, than recomputing, than the same with all logits; sparse than those two.",
    "StreamBP's paper (arXiv 2506.03077) reports 2.8 to 5.5 times the length of gradient checkpointing with all logits.",
    "",
    `Real steps, ${planned[0]!.name}, the longest for ${formatBytes(measuredBudget)}; ${backend}:`,
    "",
    steps(measured),
    "",
    "The same sequence in each way:",
    "",
    steps(same),
  ].join("\n");
}
