/**
 * `millrace bench train`: how fast a training step is, and its matrix products alone, as a share of what the machine's
 * multiply-add units do at the same moment.
 */
import { Command, Option } from "commander";
import type { Matrix, TrainingArithmetic } from "../../backends/training.js";
import { MachineProbe } from "../../bench/probe.js";
import { median } from "../../evaluate/median.js";
import { array } from "../../formats/gguf-values.js";
import { buildTape } from "../../models/resolve.js";
import { openArithmetic } from "../../train/arithmetic.js";
import { type DecoderShape, initialiseModel } from "../../train/initialise.js";
import { Network } from "../../train/network.js";
import type { Optimiser } from "../../train/optimisers/contract.js";
import { createOptimiser } from "../../train/optimisers/resolve.js";
import { backendOption, count, jsonOption, threadsOption } from "../options.js";

interface TrainBenchOptions {
  readonly backend: "auto" | "native" | "wasm" | "reference";
  readonly threads?: number;
  readonly width: number;
  readonly layers: number;
  readonly vocabulary: number;
  readonly length: number;
  readonly sequences: number;
  readonly runs: number;
  readonly optimiser: "adamw" | "muon";
  readonly json?: boolean;
}

/** Width of a head; every kv head serves two query heads. */
const HEAD_WIDTH = 64;
const RATE = 1e-3;

export function benchTrainCommand(): Command {
  return new Command("train")
    .summary("measure training: matrix products and whole steps")
    .description(
      "Measures the matrix products of a decoder's training and whole steps of it (forward, backward, optimiser), in\n" +
        "f32 operations per second and as a share of the machine's multiply-add units, measured in between. What a\n" +
        "step takes is counted from its shapes, each product once; medians.",
    )
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(
      new Option("--width <n>", "width of the model, a multiple of 128").argParser(count).default(256),
    )
    .addOption(new Option("--layers <n>", "layers").argParser(count).default(6))
    .addOption(new Option("--vocabulary <n>", "tokens known").argParser(count).default(4096))
    .addOption(new Option("--length <tokens>", "tokens of a window").argParser(count).default(1024))
    .addOption(new Option("--sequences <n>", "windows of a step").argParser(count).default(4))
    .addOption(
      new Option("--optimiser <name>", "what turns gradients into weights")
        .choices(["adamw", "muon"])
        .default("adamw"),
    )
    .addOption(new Option("--runs <n>", "counted steps, after one that is not").argParser(count).default(5))
    .addOption(jsonOption())
    .action((_options: unknown, command: Command) => benchTrain(command.opts<TrainBenchOptions>()));
}

async function benchTrain(options: TrainBenchOptions): Promise<void> {
  await using opened = await openArithmetic(options.backend, options.threads);
  const { arithmetic, description } = opened;
  using probe = new MachineProbe({ threads: arithmetic.numThreads, mebibytes: 64 });
  const peak = async (): Promise<number> => (await probe.measure()).multiplyAdds;
  await peak();
  const products = [];
  for (const product of productsOf(options)) products.push(await timeProduct(arithmetic, product, peak));
  const step = await timeSteps(arithmetic, options, peak);
  const { width, layers, length, sequences, optimiser } = options;
  const report = { backend: description, width, layers, length, sequences, optimiser, products, step };
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : `${print(report)}\n`);
}

/** out [rows, columns], summed over `inner`. */
interface Product {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly inner: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/** The products of a step that differ in shape: forward, backward to the input, backward to the weight. */
function productsOf(options: TrainBenchOptions): Product[] {
  const tokens = options.length * options.sequences;
  const { width, feedForward } = shapeOf(options);
  const matrices = [
    { name: "attention output", rows: width, columns: width },
    { name: "feed-forward up", rows: feedForward, columns: width },
    { name: "logits", rows: options.vocabulary, columns: width },
  ];
  return matrices.flatMap(({ name, rows: outputs, columns: inputs }) => [
    {
      name,
      ...{ rows: tokens, columns: outputs, inner: inputs, transposeA: false, transposeB: true },
    },
    {
      name: `${name}, to its input`,
      ...{ rows: tokens, columns: inputs, inner: outputs, transposeA: false, transposeB: false },
    },
    {
      name: `${name}, to its weight`,
      ...{ rows: outputs, columns: inputs, inner: tokens, transposeA: true, transposeB: false },
    },
  ]);
}

/** Operations per second of something, and of the machine at that moment. */
interface Rate {
  readonly gigaflops: number;
  readonly peakGigaflops: number;
  readonly share: number;
}

/** Seconds of `run`, `runs` times after one that is not counted, each beside the machine's peak. */
async function rate(
  operations: number,
  runs: number,
  run: () => Promise<unknown>,
  peak: () => Promise<number>,
): Promise<Rate> {
  await run();
  const rates: Rate[] = [];
  let before = await peak();
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    await run();
    const gigaflops = operations / (performance.now() - start) / 1e6;
    const after = await peak();
    const peakGigaflops = (before + after) / 2e9;
    before = after;
    rates.push({ gigaflops, peakGigaflops, share: gigaflops / peakGigaflops });
  }
  const of = (key: keyof Rate): number => median(rates.map((each) => each[key]));
  return { gigaflops: of("gigaflops"), peakGigaflops: of("peakGigaflops"), share: of("share") };
}

async function timeProduct(
  arithmetic: TrainingArithmetic,
  product: Product,
  peak: () => Promise<number>,
): Promise<Product & Rate> {
  const { rows, columns, inner, transposeA, transposeB } = product;
  const [a, b, out] = await Promise.all([
    randomMatrix(arithmetic, transposeA ? inner : rows, transposeA ? rows : inner),
    randomMatrix(arithmetic, transposeB ? columns : inner, transposeB ? inner : columns),
    randomMatrix(arithmetic, rows, columns),
  ]);
  // Several times, so that starting the threads does not count for more than it does in a step.
  const times = Math.max(1, Math.round(5e9 / (2 * rows * columns * inner)));
  const run = async (): Promise<void> => {
    for (let i = 0; i < times; i++) arithmetic.multiply(a, b, out, { transposeA, transposeB });
    await arithmetic.sync();
  };
  try {
    return { ...product, ...(await rate(2 * rows * columns * inner * times, 3, run, peak)) };
  } finally {
    for (const { values } of [a, b, out]) values.free();
  }
}

async function randomMatrix(arithmetic: TrainingArithmetic, rows: number, columns: number): Promise<Matrix> {
  const matrix = { values: arithmetic.allocate(rows * columns), at: 0, rows, columns, stride: columns };
  arithmetic.addNormal(matrix, rows + columns, 1, 0);
  await arithmetic.sync();
  return matrix;
}

const shapeOf = ({ width, layers, length }: TrainBenchOptions): DecoderShape => ({
  width,
  layers,
  heads: width / HEAD_WIDTH,
  kvHeads: width / HEAD_WIDTH / 2,
  feedForward: 3 * width,
  context: length,
});

/**
 * f32 operations of one step: of every weight that multiplies 2 per token forward and 4 backward, of attention four per
 * element of a head and pair of query and key that sees it forward, and twice that backward.
 */
function operationsOf(options: TrainBenchOptions): number {
  const { width, layers, heads, kvHeads = heads, feedForward } = shapeOf(options);
  const { length, sequences, vocabulary } = options;
  const perLayer = width * (2 * heads + 2 * kvHeads) * HEAD_WIDTH + 3 * width * feedForward;
  const weights = layers * perLayer + width * vocabulary;
  const pairs = (length * (length + 1)) / 2;
  return sequences * (6 * weights * length + 12 * layers * heads * HEAD_WIDTH * pairs);
}

async function timeSteps(
  arithmetic: TrainingArithmetic,
  options: TrainBenchOptions,
  peak: () => Promise<number>,
) {
  const { sequences, length, vocabulary } = options;
  const tokens = Array.from({ length: vocabulary }, (_, i) => `t${i}`);
  const model = initialiseModel(
    shapeOf(options),
    { "tokenizer.ggml.tokens": array("string", tokens) },
    { seed: 1 },
  );
  const { tape } = await buildTape(model);
  using network = await Network.create(arithmetic, tape, model, { sequences, length });
  const optimiser: Optimiser = createOptimiser({ name: options.optimiser }, arithmetic, network.parameters);
  try {
    const ids = Int32Array.from({ length: sequences * length }, (_, i) => (i * 7919) % vocabulary);
    const batch = { tokens: ids, targets: ids.map((id) => (id + 1) % vocabulary) };
    let count = 0;
    const run = async (): Promise<void> => {
      network.zeroGradients();
      await network.accumulate(batch, 1 / ids.length);
      if (optimiser.needs === "gradients") await optimiser.step({ rate: RATE, step: ++count });
      await arithmetic.sync();
    };
    const operations = operationsOf(options);
    const speed = await rate(operations, options.runs, run, peak);
    return {
      parameters: network.parameters.reduce((sum, { rows, columns }) => sum + rows * columns, 0),
      operations,
      tokensPerSecond: (speed.gigaflops * 1e9 * ids.length) / operations,
      bytes: arithmetic.bytes.peak,
      ...speed,
    };
  } finally {
    optimiser.dispose();
  }
}

interface Report {
  readonly backend: string;
  readonly width: number;
  readonly layers: number;
  readonly length: number;
  readonly sequences: number;
  readonly optimiser: string;
  readonly products: readonly (Product & Rate)[];
  readonly step: Rate & { readonly tokensPerSecond: number; readonly parameters: number };
}

function print({ backend, width, layers, length, sequences, optimiser, products, step }: Report): string {
  const line = (name: string, { gigaflops, peakGigaflops, share }: Rate): string =>
    `${name.padEnd(46)}${gigaflops.toFixed(0).padStart(8)}${peakGigaflops.toFixed(0).padStart(8)}${`${(share * 100).toFixed(0)} %`.padStart(8)}`;
  return [
    `${backend}; width ${width}, ${layers} layers, ${sequences} windows of ${length} tokens, ${optimiser}`,
    `${step.parameters} parameters, ${step.tokensPerSecond.toFixed(0)} tokens/s`,
    "",
    `${"GFLOP/s".padStart(54)}    peak   share`,
    ...products.map((each) => line(`${each.rows} x ${each.columns} over ${each.inner}: ${each.name}`, each)),
    line("a whole step", step),
  ].join("\n");
}
